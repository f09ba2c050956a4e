"""A process beside the core: the front, the seeker, the recorder."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentwatch import module
from agentwatch.clock import now
from agentwatch.daemon.link import Link, LinkError
from agentwatch.daemon.log import say

_RESTART_NS = 1_000_000_000  # between two starts


class Helper:
    """A process that does for the core what may wait, as the core sees it. One that dies is started again.

    It runs the module `name` of this package, and is called `what` in what is said of it.
    """

    def __init__(self, settings: Mapping[str, Any], name: str, what: str, patience: float = 2) -> None:
        self._settings, self._module, self._what, self._patience = settings, name, what, patience
        self._link: Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0
        self._told = False  # the settings
        self.dropped = 0
        self.starts = 0

    @property
    def backlog(self) -> int:
        """Bytes that wait for it."""
        return 0 if self._link is None else self._link.backlog

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Give it other settings, or the same: then it opens its files anew."""
        self._settings = settings
        self._told = self.send("settings", settings)  # else with the next `receive`

    def send(self, *message: Any) -> bool:
        """Never waits: what cannot be sent is dropped and counted, and the answer is false."""
        try:
            sent = self._link is not None and self._link.send(message)
        except LinkError:
            self._died()
            sent = False
        self.dropped += not sent
        return sent

    def receive(self) -> list[Any]:
        """What it has said. Starts it where it does not run."""
        if self._link is None:
            if now() >= self._next:
                self._start()
            return []
        try:
            self._link.flush()
            if not self._told:
                self._told = self._link.send(("settings", self._settings))
            return self._link.receive()
        except LinkError:
            self._died()
            return []

    def _start(self) -> None:
        self._next = now() + _RESTART_NS
        self.starts += 1
        try:
            ours, theirs = socket.socketpair()
            self._link = Link(ours)
            with theirs:
                self._process = subprocess.Popen(
                    module.command(self._module, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    cwd=module.HOME,
                    env=module.environment(),
                )
            self._told = self._link.send(("settings", self._settings))  # the first it hears
        except OSError as error:  # no memory, too many processes, a Python that is being replaced
            say(f"{self._what} cannot be started: {error.strerror or error}")
            self._end()

    def _died(self) -> None:
        say(f"{self._what} ended and is started again")
        self._end()

    def _end(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """It ends by itself when its link does, after what was said to it."""
        if self._link is not None:
            with suppress(LinkError):
                self._link.drain(self._patience)
            self._link.close()
            self._link = None
        if self._process is not None:
            try:
                self._process.wait(self._patience)
            except subprocess.TimeoutExpired:
                self._end()
