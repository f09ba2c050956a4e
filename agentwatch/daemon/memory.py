"""What must outlive the daemon: who is watched, and who is frozen, by whom, and why.

Kept in a file below /run, which lives as long as the kernel and its cgroups do. It is replaced as a
whole, so that a reader finds the old state or the new one, whenever the writer is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

VERSION = 1


@dataclass(frozen=True, slots=True)
class Remembered:
    """An agent as it was when it was last told. `by` says who paused it: a rule's id, or an operator."""

    name: str
    cgroup: str  # path of the directory
    cgroup_id: int  # a directory of the same path that is another one is not it
    mode: str
    max_response: str
    origin: str  # selector, or who attached it
    paused: bool = False
    by: str = ""
    table: str = ""  # id of the table of agents whose policy it has; empty: [policy], or as attached
    own_mode: bool = False  # who attached or began it gave the mode
    own_response: bool = False  # the same of max_response
    holder: int = 0  # of an agent that was begun: the process that did
    holder_start: str = ""  # when that started, in ticks: with the id, its identity


class Memory:
    """The file. A file that cannot be read is put aside and said: what it held is not guessed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""

    def load(self) -> list[Remembered]:
        """The agents that were remembered; `problem` says what was wrong."""
        try:
            plain = json.loads(self.path.read_bytes())
            if plain["version"] != VERSION:
                raise ValueError(f"it is of version {plain['version']}")
            return [Remembered(**agent) for agent in plain["agents"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.problem = f"{self.path} cannot be read and was put aside: {error}"
            with suppress(OSError):
                self.path.replace(self.path.with_suffix(".unreadable"))
            return []

    def save(self, agents: Iterable[Remembered]) -> None:
        """Replace what is remembered. Raises `OSError`."""
        data = json.dumps({"version": VERSION, "agents": [asdict(agent) for agent in agents]}, indent=1)
        fresh = self.path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(data)
        fresh.replace(self.path)
