"""Another configuration for a daemon that runs: read in a thread, taken over as far as it can be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from agentwatch.config.keys import keys
from agentwatch.config.load import ConfigError, Loaded

Table = TypeVar("Table")


class ConfigReader:
    """Reads the configuration when asked to. No call waits."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._asked = False
        self._thread: threading.Thread | None = None
        self._outcome: Loaded | ConfigError | None = None

    def request(self) -> None:
        """Read it anew, after a reading that is under way."""
        self._asked = True

    def poll(self) -> Loaded | ConfigError | None:
        """What was read since the last call, or what is wrong with it; None where nothing was."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            return self._outcome
        if self._asked and self._thread is None:
            self._asked = False
            self._thread = threading.Thread(target=self._read, name="configuration", daemon=True)
            self._thread.start()
        return None

    def _read(self) -> None:
        try:
            self._outcome = self._load()
        except ConfigError as error:
            self._outcome = error


def keep_fixed(old: Table, new: Table, prefix: str = "") -> tuple[Table, list[str]]:
    """The new table, with the old values of what only a restart changes; the keys of those that differ."""
    kept: dict[str, Any] = {}
    named: list[str] = []
    for name, key in keys(cast(type, new.__class__)).items():
        before, after = getattr(old, name), getattr(new, name)
        if key.table and not key.many:
            kept[name], below = keep_fixed(before, after, f"{prefix}{name}.")
            named += below
        elif not key.table and not key.meta["live"] and before != after:
            kept[name] = before
            named.append(prefix + name)
    return replace(new, **kept), named  # type: ignore[type-var]
