"""yamux (hashicorp's specification): streams in a stream, under frp and other tunnels.

The first stream that is opened is read; what it carries is a layer inside.
"""

from __future__ import annotations

from typing import Final

from agentwatch.detect.layer import Context

_HEADER: Final = 12  # version, type, flags, stream, length
_DATA, _WINDOW = 0, 1
_LAST_TYPE: Final = 3
_MAX_FRAME: Final = 1 << 24


def is_yamux(head: bytes) -> bool | None:
    """Whether a stream starts with a frame that opens the first stream of one side.

    None if more bytes are needed to tell.
    """
    kind, rest = head[1:2], head[2:8]
    if head[0] != 0 or kind not in (b"", b"\0", b"\1"):
        return False
    if not any(opening.startswith(rest) for opening in _OPENINGS):
        return False
    return True if len(head) >= _HEADER else None


_OPENINGS: Final = (b"\0\1\0\0\0\1", b"\0\1\0\0\0\2")  # SYN; a client's streams are odd


class _Side:
    """One direction's place in its frames."""

    def __init__(self) -> None:
        self.header = b""
        self.remaining = 0
        self.wanted = False
        self.lost = False


class Yamux:
    """The layer of frames; both directions of the stream that was opened first go inside."""

    def __init__(self, context: Context) -> None:
        context.emit("yamux")
        self._inside = context.inside("yamux").open()
        self._sides = [_Side(), _Side()]
        self._stream = b""
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        side = self._sides[direction]
        if gap and not side.lost:
            side.lost = True
            self._inside.feed(direction, b"", True, False)
        if side.lost:
            if not start:
                return
            side = self._sides[direction] = _Side()
        at = 0
        while at < len(data) and not self.finished:
            if side.remaining:
                part = data[at : at + side.remaining]
                side.remaining -= len(part)
                at += len(part)
                if side.wanted:
                    self._inside.feed(direction, part, False, start)
                    start = False
            else:
                side.header += data[at : at + 1]
                at += 1
                if len(side.header) == _HEADER:
                    self._begin_frame(side)
        self.finished = self.finished or self._inside.finished

    def _begin_frame(self, side: _Side) -> None:
        header, side.header = side.header, b""
        version, kind, stream = header[0], header[1], header[4:8]
        length = int.from_bytes(header[8:], "big")
        if version != 0 or kind > _LAST_TYPE or (kind == _DATA and length > _MAX_FRAME):
            self.finished = True
            return
        if not self._stream and kind in (_DATA, _WINDOW):
            self._stream = stream
        side.remaining = length if kind == _DATA else 0
        side.wanted = stream == self._stream
