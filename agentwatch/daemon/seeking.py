"""The core's side of the seeker (`agentwatch.daemon.discover`): what it has to know, and what it finds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentwatch.config.model import Config
from agentwatch.daemon.discover import plain_table
from agentwatch.daemon.helper import Helper
from agentwatch.daemon.roster import Roster
from agentwatch.kernel.errors import KernelError


class Seeking:
    """Watches what the seeker finds, one agent a turn. Without tables and limits there is no seeker."""

    def __init__(self, helper: Helper, roster: Roster, say: Callable[[str], None], config: Config) -> None:
        self._helper, self._roster, self._say, self._config = helper, roster, say, config
        self._found: deque[list[Any]] = deque()
        self._settings: dict[str, Any] = {}

    def use(self, config: Config) -> None:
        """Have another configuration in force."""
        self._config = config

    def tend(self) -> None:
        """Tell the seeker what has changed."""
        limits = self._roster.limits()
        settings = {"tables": [plain_table(table) for table in self._config.agent], "agents": limits}
        needed = self._settings or settings["tables"] or any(limits.values())
        if needed and settings != self._settings:
            self._settings = settings
            self._helper.configure(settings)

    def turn(self) -> None:
        """Take what the seeker says."""
        if self._settings:
            for message in self._helper.receive():
                self._take(message)
        if self._found:
            self._watch(*self._found.popleft())

    def _take(self, message: list[Any]) -> None:
        match message:
            case ["found", *found]:
                self._found.append(found)
            case ["failed", text]:
                self._say(text)

    def _watch(self, path: str, id: str, name: str, why: str) -> None:
        table = self._config.table(id)
        if table is None:  # the configuration has changed meanwhile
            return
        try:
            self._roster.attach(Path(path), table, f"[[agent]] {id}: {why}", name, id)
        except (KernelError, OSError, ValueError) as error:
            self._say(f"agent {name} ({why}) is not watched: {error}")
