"""Asks a daemon: what the command line and the TUI share."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from agentwatch.control import SOCKET
from agentwatch.control.protocol import PROTOCOL, ProtocolError, encode

_SECONDS: Final = 30.0
_LINE: Final = 64 << 20  # bytes of an answer


class NoDaemon(OSError):
    """Nobody serves the socket."""


class Client:
    """A connection to the daemon. `role` is act or read.

    Raises `NoDaemon` where there is none, `ProtocolError` where it refuses or speaks another protocol.
    """

    def __init__(self, path: Path = SOCKET, *, timeout: float | None = _SECONDS) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise NoDaemon(f"no daemon answers at {path}: {error.strerror}") from None
        self._file = self._socket.makefile("rb")
        self._next = 1
        try:
            greeting = self._read()
            if greeting.get("protocol") != PROTOCOL:
                raise ProtocolError("request", f"the daemon speaks protocol {greeting.get('protocol')}")
        except BaseException:
            self.close()
            raise
        self.role = str(greeting["role"])

    def fileno(self) -> int:
        """For an event loop that follows."""
        return self._socket.fileno()

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The result of a request. Raises `ProtocolError`, or `NoDaemon` when the daemon ends."""
        number = self._send(verb, arguments)
        while True:
            message = self._read()
            if message.get("id") == number and "item" not in message:
                return message["result"]

    def follow(self, verb: str, **arguments: Any) -> Iterator[tuple[Any, int]]:
        """What comes of a request that follows: first its result, then items, each with the number of
        those dropped before it. Waits as long as the client's timeout says; None is for ever."""
        if verb != "events":
            arguments["follow"] = True
        number = self._send(verb, arguments)
        while True:
            message = self._read()
            if message.get("id") == number:
                yield message.get("item", message.get("result")), message.get("dropped", 0)

    def _send(self, verb: str, arguments: dict[str, Any]) -> int:
        number, self._next = self._next, self._next + 1
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            self._socket.sendall(encode({"id": number, "verb": verb, **given}))
        except OSError as error:
            raise NoDaemon(f"the daemon has ended: {error.strerror}") from None
        return number

    def _read(self) -> dict[str, Any]:
        try:
            line = self._file.readline(_LINE)
        except OSError as error:
            raise NoDaemon(f"the daemon does not answer: {error}") from None
        if not line.endswith(b"\n"):
            raise NoDaemon("the daemon has ended")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ProtocolError(message.get("code", "failed"), message["error"])
        return message

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
