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
        self._data = b""  # of frames that are not whole yet; a timeout loses none

    def settimeout(self, seconds: float | None, /) -> None:
        """Of the connection below."""
        self._stream.wire.settimeout(seconds)

    def recv(self, _: int, /) -> bytes:
        """The content of the next frame that has some; empty when the client leaves."""
        while True:
            frame = self._next()
            if frame is None or frame[0] == _CLOSE:
                return b""
            kind, content = frame
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

    def _next(self) -> tuple[int, bytes] | None:
        """Kind and content of the next frame; None at the end, or for one beyond all measure."""
        if not self._have(2):
            return None
        size, place = self._data[1] & 127, 2
        if size > 125:
            place = 4 if size == 126 else 10
            if not self._have(place):
                return None
            (size,) = struct.unpack_from(">H" if size == 126 else ">Q", self._data, 2)
        masked = 4 if self._data[1] & 128 else 0
        end = place + masked + size
        if size > _LARGEST or not self._have(end):
            return None
        kind, key = self._data[0] & 15, self._data[place : place + masked] or bytes(4)
        content = bytes(byte ^ key[at & 3] for at, byte in enumerate(self._data[place + masked : end]))
        self._data = self._data[end:]
        return kind, content

    def _have(self, size: int) -> bool:
        while len(self._data) < size:
            more = self._stream.read()
            if not more:
                return False
            self._data += more
        return True
