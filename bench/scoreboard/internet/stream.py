"""A connection that can be looked at before it is read: a socket, TLS, or WebSocket frames."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Protocol

_CHUNK = 65536


class Wire(Protocol):
    """What carries bytes."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...


class Stream:
    """Bytes of a connection, the first of which may be looked at."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._ahead = b""

    def plain(self) -> socket.socket:
        """The socket itself, all bytes still in it. Raises ValueError where it is something else."""
        if isinstance(self.wire, ssl.SSLSocket) or not isinstance(self.wire, socket.socket):
            raise ValueError("only a plain socket can be handed on")
        return self.wire

    def is_plain(self) -> bool:
        return isinstance(self.wire, socket.socket) and not isinstance(self.wire, ssl.SSLSocket)

    def peek(self, seconds: float) -> bytes | None:
        """What has come, within so many seconds; None if nothing has. Empty: the client left."""
        if self._ahead:
            return self._ahead
        self.wire.settimeout(seconds)
        try:
            if self.is_plain():
                return self.plain().recv(_CHUNK, socket.MSG_PEEK)
            self._ahead = self.wire.recv(_CHUNK)
            return self._ahead
        except TimeoutError:
            return None
        finally:
            self.wire.settimeout(None)

    def read(self) -> bytes:
        """The next bytes; empty at the end."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        return self.wire.recv(_CHUNK)

    def unread(self, data: bytes) -> None:
        """Put bytes back."""
        self._ahead = data + self._ahead

    def write(self, data: bytes) -> None:
        """Send."""
        self.wire.sendall(data)

    def drain(self, seconds: float) -> None:
        """Read and forget for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.wire.settimeout(left)
            try:
                if not self.read():
                    break
            except TimeoutError:
                break
        self.wire.settimeout(None)
