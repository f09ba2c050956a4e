"""MessagePack from strangers: bounded before anything is allocated.

A few bytes of MessagePack can claim billions of elements, or nest thousands deep. `Cursor`
walks the encoding without building objects; `unpack` walks first and builds only what was
found small enough. Encoding: https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]

from agentwatch.trace.error import TraceError

MAX_OBJECTS = 200_000
MAX_DEPTH = 32

# First byte of a value -> (bytes of its big-endian length, bytes that follow besides).
_LENGTHS = {
    **{0xC4 + i: (1 << i, 0) for i in range(3)},  # bin
    **{0xC7 + i: (1 << i, 1) for i in range(3)},  # ext: one more byte for its type
    **{0xD9 + i: (1 << i, 0) for i in range(3)},  # str
}
_FIXED = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0),  # nil, false, true
    **{0xCA: 4, 0xCB: 8},  # float
    **{base + i: 1 << i for base in (0xCC, 0xD0) for i in range(4)},  # uint, int
    **{0xD4 + i: 1 + (1 << i) for i in range(5)},  # fixext
}
_CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # array, map: values an entry


class Cursor:
    """A position in MessagePack bytes; every method raises `TraceError` on anything else than it reads."""

    __slots__ = ("_data", "_end", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self._data = data
        self._end = len(data)
        self.pos = pos

    @property
    def at_end(self) -> bool:
        return self.pos == self._end

    def _take(self, size: int) -> int:
        """Step over `size` bytes and return where they begin."""
        start = self.pos
        if size > self._end - start:
            raise TraceError("MessagePack value runs past its end")
        self.pos = start + size
        return start

    def _number(self, size: int) -> int:
        start = self._take(size)
        return int.from_bytes(self._data[start : start + size], "big")

    def array(self) -> int:
        """The number of elements of the array that begins here."""
        tag = self._number(1)
        if tag & 0xF0 == 0x90:
            return tag & 0x0F
        if tag not in (0xDC, 0xDD):
            raise TraceError(f"MessagePack tag {tag:#04x} where an array was due")
        return self._number(_CONTAINERS[tag][0])

    def uint(self) -> int:
        tag = self._number(1)
        if tag < 0x80:
            return tag
        if not 0xCC <= tag <= 0xCF:
            raise TraceError(f"MessagePack tag {tag:#04x} where an unsigned integer was due")
        return self._number(1 << (tag - 0xCC))

    def blob(self) -> bytes:
        tag = self._number(1)
        if not 0xC4 <= tag <= 0xC6:
            raise TraceError(f"MessagePack tag {tag:#04x} where bytes were due")
        size = self._number(1 << (tag - 0xC4))
        start = self._take(size)
        return self._data[start : start + size]

    def skip(self, max_objects: int = MAX_OBJECTS) -> int:
        """Step over one value of any shape; returns how many objects it holds, itself included."""
        objects = 0
        open_ = [1]  # values still due at each depth
        while open_:
            if not open_[-1]:
                open_.pop()
                continue
            open_[-1] -= 1
            objects += 1
            inside = self._step()
            if inside:
                open_.append(inside)
            if objects > max_objects or len(open_) > MAX_DEPTH:
                raise TraceError("MessagePack value holds too many objects or nests too deep")
        return objects

    def _step(self) -> int:
        """Step over one scalar or one container's head; returns how many values the container holds."""
        tag = self._number(1)
        if tag < 0x80 or tag >= 0xE0:
            return 0
        if tag < 0xA0:
            return (tag & 0x0F) * (2 if tag < 0x90 else 1)
        if tag < 0xC0:
            self._take(tag & 0x1F)
        elif tag in _FIXED:
            self._take(_FIXED[tag])
        elif tag in _LENGTHS:
            width, besides = _LENGTHS[tag]
            self._take(self._number(width) + besides)
        elif tag in _CONTAINERS:
            width, values = _CONTAINERS[tag]
            return self._number(width) * values
        else:
            raise TraceError(f"MessagePack has no tag {tag:#04x}")
        return 0


def pack(value: object) -> bytes:
    """Encode plain data; text that is no UTF-8 (surrogate escapes of the file system) survives."""
    return bytes(msgpack.packb(value, unicode_errors="surrogateescape"))


def unpack(data: bytes, max_objects: int = MAX_OBJECTS) -> Any:
    """Decode one value of plain data that fills `data`; raises `TraceError` on anything else.

    Keys of maps are text or bytes: Python hashes these with a secret, so no file can make
    them collide.
    """
    cursor = Cursor(data)
    cursor.skip(max_objects)
    if not cursor.at_end:
        raise TraceError("MessagePack value is followed by other bytes")
    try:
        return msgpack.unpackb(data, unicode_errors="surrogateescape")
    except (ValueError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise TraceError(f"MessagePack value cannot be decoded: {error}") from None
