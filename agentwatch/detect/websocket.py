"""WebSocket frames (RFC 6455, section 5.2): unmasked, put together, handed on as messages."""

from __future__ import annotations

from agentwatch.detect.layer import Context, Layer

_TEXT, _BINARY, _CONTINUATION = 1, 2, 0
_LARGEST = 1 << 20  # bytes of a frame that is still followed


class _Frames:
    """One direction: the header under way and the frame that is being read."""

    def __init__(self) -> None:
        self.header = bytearray()
        self.rest = 0
        self.mask = b""
        self.position = 0  # within the frame, for the mask
        self.data_frame = False


class WebSocket:
    """Both directions of an upgraded connection; their messages go to one layer inside."""

    def __init__(self, context: Context) -> None:
        self._inner: Layer = context.recognise(context)
        self._sides = (_Frames(), _Frames())
        self._lost = False

    @property
    def finished(self) -> bool:
        return self._lost or self._inner.finished

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        side = self._sides[direction]
        if gap or (start and side.rest):
            side.header.clear()
            side.rest = 0
        while data and not self._lost:
            if side.rest:
                data = self._payload(side, direction, data)
            else:
                data = self._header(side, data)

    def _header(self, side: _Frames, data: bytes) -> bytes:
        """Take bytes of a frame header; returns those behind it."""
        before = len(side.header)
        side.header += data[: 14 - before]
        size = _header_size(side.header)
        if size is None or len(side.header) < size:
            return data[14 - before :]
        header = bytes(side.header[:size])
        side.header.clear()
        length = header[1] & 0x7F
        if length >= 126:
            length = int.from_bytes(header[2:4] if length == 126 else header[2:10], "big")
        if header[0] & 0x70 or length > _LARGEST:
            self._lost = True  # an extension (compression), or no WebSocket after all
            return b""
        side.mask = header[-4:] if header[1] & 0x80 else b""
        side.rest, side.position = length, 0
        side.data_frame = header[0] & 0x0F in (_TEXT, _BINARY, _CONTINUATION)
        return data[size - before :]

    def _payload(self, side: _Frames, direction: int, data: bytes) -> bytes:
        part, rest = data[: side.rest], data[side.rest :]
        if side.data_frame:
            plain = _unmask(part, side.mask, side.position) if side.mask else part
            self._inner.feed(direction, plain, False, side.position == 0)
        side.position += len(part)
        side.rest -= len(part)
        if not side.rest and side.data_frame:
            self._inner.feed(direction, b"\n", False, False)  # a message ends as a line does
        return rest


def _header_size(header: bytes | bytearray) -> int | None:
    if len(header) < 2:
        return None
    length = header[1] & 0x7F
    extended = 2 if length == 126 else 8 if length == 127 else 0
    return 2 + extended + (4 if header[1] & 0x80 else 0)


def _unmask(data: bytes, mask: bytes, position: int) -> bytes:
    key = (mask * (len(data) // 4 + 2))[position % 4 : position % 4 + len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(len(data), "big")
