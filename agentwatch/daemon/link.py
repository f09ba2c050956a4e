"""The line between the core, which watches, and the desk process, which talks to everybody else.

Messages are msgpack behind their length (u32, little endian), over a Unix socket pair. The core
never waits for it: what the other side does not take is kept up to a limit, then dropped and counted.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

_LENGTH: Final = struct.Struct("<I")
_LIMIT: Final = 64 << 20  # bytes of a message
_BACKLOG: Final = 16 << 20  # bytes kept for a slow reader
_READ: Final = 1 << 16


class LinkError(OSError):
    """The other side is gone, or speaks nonsense."""


def pack(message: Any) -> bytes:
    """A message as it travels."""
    data: bytes = msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass")
    return _LENGTH.pack(len(data)) + data


class Unpacker:
    """Messages from the bytes of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are whole with these bytes. Raises `LinkError`."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _LIMIT:
                raise LinkError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield msgpack.unpackb(message, raw=False, unicode_errors="surrogatepass")


class Link:
    """The core's end. No call waits."""

    def __init__(self, connection: socket.socket) -> None:
        self.dropped = 0
        self._connection = connection
        self._connection.setblocking(False)
        self._unpacker = Unpacker()
        self._waiting: deque[bytes] = deque()
        self._size = 0

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def backlog(self) -> int:
        """Bytes that wait for the other side."""
        return self._size

    def send(self, message: Any) -> bool:
        """Send, now or as soon as there is room; False for what was dropped. Raises `LinkError`."""
        data = pack(message)
        if self._size + len(data) > _BACKLOG:
            self.dropped += 1
            return False
        self._waiting.append(data)
        self._size += len(data)
        self.flush()
        return True

    def flush(self) -> None:
        """Send what waits, as far as there is room. Raises `LinkError`."""
        try:
            while self._waiting:
                data = self._waiting.popleft()
                sent = self._connection.send(data)
                self._size -= sent
                if sent < len(data):
                    self._waiting.appendleft(data[sent:])
        except BlockingIOError:
            self._waiting.appendleft(data)
        except OSError as error:
            raise LinkError(str(error)) from None

    def drain(self, seconds: float) -> None:
        """Send all that waits, and wait so long at the most for it to be taken. Raises `LinkError`."""
        self._connection.settimeout(seconds)
        try:
            while self._waiting:
                self._connection.sendall(self._waiting.popleft())
        except OSError as error:
            raise LinkError(str(error)) from None
        finally:
            self._connection.setblocking(False)

    def receive(self) -> list[Any]:
        """The messages that have come. Raises `LinkError`."""
        try:
            data = self._connection.recv(_READ)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LinkError(str(error)) from None
        if not data:
            raise LinkError("the other side has ended")
        return list(self._unpacker.feed(data))

    def close(self) -> None:
        self._connection.close()
