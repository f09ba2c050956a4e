"""WebSocket frames (RFC 6455), the server's side: text and binary messages as one stream of bytes."""

from __future__ import annotations

import struct
from typing import Any

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_LARGEST = 1 << 20


class Frames:
    """Reads clients' masked frames, writes unmasked ones of the kind that came last."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._kind = _TEXT

    def settimeout(self, seconds: float | None, /) -> None:
        """Of the connection below."""
        self._stream.wire.settimeout(seconds)

    def recv(self, _: int, /) -> bytes:
        """The content of the next frame that has some; empty when the client closes."""
        while True:
            first, second = self._take(2)
            kind, size = first & 15, second & 127
            if size > 125:
                (size,) = struct.unpack(">H" if size == 126 else ">Q", self._take(2 if size == 126 else 8))
            if size > _LARGEST or kind == _CLOSE:
                return b""
            key = self._take(4) if second & 128 else bytes(4)
            content = bytes(byte ^ key[place & 3] for place, byte in enumerate(self._take(size)))
            if kind == _PING:
                self._send(_PONG, content)
            elif content and kind != _PONG:
                self._kind = kind or self._kind
                return content

    def sendall(self, data: bytes, /) -> None:
        """One frame."""
        self._send(self._kind, data)

    def _send(self, kind: int, data: bytes) -> None:
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + struct.pack(">H", len(data))
        self._stream.write(bytes([128 | kind]) + size + data)

    def _take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._stream.read()
            if not more:
                raise OSError("the client left in the middle of a frame")
            data += more
        self._stream.unread(data[size:])
        return bytes(data[:size])
