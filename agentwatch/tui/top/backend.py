"""Where `agentwatch top` gets what it shows: a daemon, or a recording. Both answer the same verbs."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class BackendError(Exception):
    """What was asked for could not be had; the text is a sentence for people. `gone`: nobody answers."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


class Mark(NamedTuple):
    """An alert on the timeline: raised when `position` events had been seen, at `time` (ns since 1970)."""

    position: int
    time: int
    level: str


class Timeline(NamedTuple):
    """Where in a recording one is: `position` of `total` events have been seen. Times in ns since 1970."""

    position: int
    total: int
    began: int
    time: int
    ended: int
    marks: tuple[Mark, ...]


class Backend(Protocol):
    """Answers verbs of the control socket (see `agentwatch.control.protocol`). Used by several threads."""

    name: str
    """What is looked at, for the title."""

    replay: bool
    """Whether it is a recording, which can be moved in."""

    @property
    def role(self) -> str:
        """`act` or `read`."""

    @property
    def busy(self) -> str:
        """What it is at, where that takes long; empty otherwise."""

    @property
    def timeline(self) -> Timeline | None:
        """Of a recording."""

    def connect(self) -> None:
        """Be ready to answer; does nothing where it is. Raises `BackendError`."""

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The result of a verb that only tells. Raises `BackendError`."""

    def act(self, verb: str, **arguments: Any) -> Any:
        """The result of a verb that acts; never waits for one that tells. Raises `BackendError`."""

    def seek(self, position: int) -> None:
        """Go to where so many events have been seen. Raises `BackendError`."""

    def position_at(self, text: str) -> int:
        """The position at a time that somebody typed. Raises ValueError."""

    def close(self) -> None:
        """Let go of everything."""
