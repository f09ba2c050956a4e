"""WebSocket (RFC 6455) with masking, fragments and compressed messages (RFC 7692)."""

from __future__ import annotations

import zlib
from typing import Final

from agentwatch.detect.layer import Context

_MAX_COMPRESSED: Final = 4096
_MAX_INFLATED: Final = 4096
_HISTORY: Final = 2048
"""Bytes of earlier messages kept as the inflater's dictionary (context takeover), per direction."""
_DATA_OPCODES: Final = (0, 1, 2)
_JSON_OPENINGS: Final = frozenset(b"{[")


def unmask(data: bytes, key: bytes, offset: int) -> bytes:
    """RFC 6455 section 5.3, for bytes that begin `offset` bytes into the frame's payload."""
    if not data:
        return data
    turned = key[offset & 3 :] + key[: offset & 3]
    mask = (turned * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(data), "big")


def header_length(head: bytes) -> int:
    """Length of the frame header that starts with `head` (at least two bytes): 2 to 14."""
    length = head[1] & 0x7F
    return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if head[1] & 0x80 else 0)


def is_websocket(head: bytes) -> bool | None:
    """Whether a stream that was joined after its handshake starts with a frame that carries JSON.

    None if more bytes are needed to tell.
    """
    if head[0] not in (0x81, 0x82, 0x01, 0x02):
        return False
    if len(head) < 2:
        return None
    size = header_length(head)
    if len(head) <= size:
        return None
    first = head[size] ^ head[size - 4] if head[1] & 0x80 else head[size]
    return first in _JSON_OPENINGS


class _Frames:
    """The frames of one direction."""

    def __init__(self) -> None:
        self.header = b""
        self.remaining = 0
        self.offset = 0
        self.key = b""
        self.opcode = 0
        self.final = True
        self.first = True
        self.deflated = False
        self.compressed: bytes | None = b""
        self.history = b""
        self.lost = False


class WebSocket:
    """The layer of the frames; the messages' payload is a layer inside."""

    def __init__(self, context: Context) -> None:
        self._inside = context.inside("websocket").open()
        self._frames = (_Frames(), _Frames())
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        frames = self._frames[direction]
        if gap:
            self._inside.feed(direction, b"", True, False)
            frames.lost = True
        if frames.lost:
            if not start:
                return
            history = frames.history
            frames.__init__()  # type: ignore[misc]
            frames.history = history
        position = 0
        while position < len(data) and not self.finished:
            if frames.remaining:
                part = data[position : position + frames.remaining]
                self._payload(direction, frames, part)
                position += len(part)
            else:
                frames.header += data[position : position + 1]
                position += 1
                if len(frames.header) >= 2 and len(frames.header) == header_length(frames.header):
                    self._begin_frame(direction, frames)
        self.finished = self.finished or self._inside.finished

    def _begin_frame(self, direction: int, frames: _Frames) -> None:
        header, frames.header = frames.header, b""
        masked = bool(header[1] & 0x80)
        frames.key = header[-4:] if masked else b""
        extended = header[2 : len(header) - 4 if masked else len(header)]
        frames.remaining = int.from_bytes(extended, "big") if extended else header[1] & 0x7F
        frames.offset = 0
        frames.opcode = header[0] & 0x0F
        if header[0] & 0x30 or frames.opcode not in (0, 1, 2, 8, 9, 10):
            self.finished = True  # no WebSocket after all
            return
        if frames.opcode in _DATA_OPCODES:
            frames.final = bool(header[0] & 0x80)
            if frames.opcode:
                frames.first = True
                frames.deflated = bool(header[0] & 0x40)
                frames.compressed = b""
            if not frames.remaining:
                self._end_frame(direction, frames)

    def _payload(self, direction: int, frames: _Frames, part: bytes) -> None:
        clear = unmask(part, frames.key, frames.offset) if frames.key else part
        frames.offset += len(part)
        frames.remaining -= len(part)
        if frames.opcode not in _DATA_OPCODES:
            return
        if not frames.deflated:
            self._pass(direction, clear, frames.first)
            frames.first = False
        elif frames.compressed is not None:
            whole = frames.compressed + clear
            frames.compressed = whole if len(whole) <= _MAX_COMPRESSED else None
        if not frames.remaining:
            self._end_frame(direction, frames)

    def _end_frame(self, direction: int, frames: _Frames) -> None:
        if not (frames.final and frames.deflated and frames.compressed):
            return
        clear = _inflate(frames.compressed, frames.history)
        frames.compressed = b""
        frames.history = (frames.history + clear)[-_HISTORY:]
        self._pass(direction, clear, True)

    def _pass(self, direction: int, clear: bytes, first: bool) -> None:
        """Hands payload on. A message that starts like JSON is one for itself, whatever came before;
        another may continue the stream (relays put a TCP stream into messages as it comes)."""
        self._inside.feed(direction, clear, first and clear[:1] in (b"{", b"["), first)


def _inflate(data: bytes, history: bytes) -> bytes:
    """One message's payload; what can be had of it where it is damaged or refers too far back."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS, zdict=history)
    try:
        return inflater.decompress(data + b"\0\0\xff\xff", _MAX_INFLATED)
    except zlib.error:
        return b""
