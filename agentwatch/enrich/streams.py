"""One direction of a TCP connection, put back in order from captured segments.

The kernel side reports, for each packet, where its bytes lie in the stream, the bytes that it
captured, and how many there were. A segment may be one byte long, repeated, overlapping, out of
order, or cut; whole segments may be missing because capture ended or a ring was full.
"""

from __future__ import annotations

from typing import NamedTuple

PENDING_BYTES = 4096
PENDING_SEGMENTS = 64
# A segment of a new message this far behind the stream's position is not a retransmission, which
# stays within a window, but one that lies more than 2 GiB ahead.
_FAR_BEHIND = -(1 << 24)


class Chunk(NamedTuple):
    """Bytes that follow each other in the stream.

    `gap`: bytes before these are missing and will not come. An empty chunk with `gap` says that
    what follows the chunk before it was cut off. `start`: a message (a run of bytes in this
    direction after the other direction spoke) starts here.
    """

    data: bytes
    gap: bool
    start: bool


class _Segment(NamedTuple):
    seq: int
    data: bytes
    wire_length: int
    message: int


_NOTHING: tuple[Chunk, ...] = ()


def _distance(seq: int, origin: int) -> int:
    """How far `seq` lies after `origin`, in RFC 9293 arithmetic: -2**31 to 2**31 - 1."""
    return ((seq - origin + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class Stream:
    """Reassembles one direction of a connection by sequence number.

    Where copies of a byte differ, the first to arrive wins: bytes are handed on the moment they
    are contiguous, as a receiving TCP does, so a later copy cannot change what was acted upon.

    A hole inside a message waits for its bytes, bounded by PENDING_BYTES and PENDING_SEGMENTS.
    It becomes a gap when a later message comes in the same direction, when the bounds are
    reached, or on `flush`.
    """

    __slots__ = ("_message", "_next", "_pending")

    def __init__(self) -> None:
        self._next = -1  # position in the stream; -1 before the first segment
        self._message = -1
        self._pending: list[_Segment] = []

    @property
    def waiting(self) -> bool:
        """Whether segments are held back because bytes before them are missing."""
        return bool(self._pending)

    def follows(self, seq: int, data: bytes, wire_length: int, message: int) -> int:
        """Takes a segment that is whole and next in order, as nearly all are: all of it is handed on.

        Returns 1 if a message starts with it, 0 if one goes on, and -1 for any other segment, of
        which nothing was taken: that is for `feed`.
        """
        if self._next != seq and self._next >= 0:
            return -1
        if self._pending or not data or len(data) < wire_length:
            return -1
        self._next = (seq + len(data)) & 0xFFFFFFFF
        if message <= self._message:
            return 0
        self._message = message
        return 1

    def feed(self, seq: int, data: bytes, wire_length: int, message: int) -> tuple[Chunk, ...] | list[Chunk]:
        """Takes one segment; returns what became contiguous with it, in stream order.

        `seq` is the sequence number of the first byte (modulo 2**32), `wire_length` the payload
        length of the packet, of which `data` is the captured head, `message` the index of the
        message in this direction.
        """
        if self._next < 0:
            self._next = seq & 0xFFFFFFFF
        elif (ahead := _distance(seq, self._next)) != 0 or self._pending:
            return self._out_of_place(_Segment(seq, data, wire_length, message), ahead)
        return self._deliver(_Segment(seq, data, wire_length, message), gap=False)

    def flush(self) -> list[Chunk]:
        """Gives up waiting: hands out what is held back, with the holes as gaps."""
        chunks: list[Chunk] = []
        while self._pending:
            segment = self._pending.pop(0)
            hole = _distance(segment.seq, self._next) > 0
            if hole:
                self._next = segment.seq
            chunks.extend(self._deliver(segment, gap=hole))
        return chunks

    def _out_of_place(self, segment: _Segment, ahead: int) -> list[Chunk]:
        later = segment.message > self._message
        if ahead < 0 and not (later and ahead < _FAR_BEHIND):
            chunks = list(self._deliver(segment, gap=False))
            return chunks + self._continue() if chunks else chunks
        if ahead == 0:
            return [*self._deliver(segment, gap=False), *self._continue()]
        if later:
            chunks = self.flush()
            ahead = _distance(segment.seq, self._next)
            gap = ahead > 0 or ahead < _FAR_BEHIND
            if gap:
                self._next = segment.seq & 0xFFFFFFFF
            return chunks + list(self._deliver(segment, gap=gap))
        self._hold(segment)
        held_bytes = sum(len(held.data) for held in self._pending)
        if len(self._pending) > PENDING_SEGMENTS or held_bytes > PENDING_BYTES:
            return self.flush()
        return []

    def _hold(self, segment: _Segment) -> None:
        """Inserts in stream order; of two segments at one place the first stays ahead."""
        place = _distance(segment.seq, self._next)
        index = len(self._pending)
        while index and _distance(self._pending[index - 1].seq, self._next) > place:
            index -= 1
        self._pending.insert(index, segment)

    def _continue(self) -> list[Chunk]:
        """Hands out the held segments that are contiguous by now."""
        chunks: list[Chunk] = []
        while self._pending and _distance(self._pending[0].seq, self._next) <= 0:
            chunks.extend(self._deliver(self._pending.pop(0), gap=False))
        return chunks

    def _deliver(self, segment: _Segment, gap: bool) -> tuple[Chunk, ...]:
        """Hands out the part of `segment` that lies at or after the position, and moves on."""
        known = _distance(self._next, segment.seq)
        length = max(segment.wire_length, len(segment.data))
        if known >= length:
            return _NOTHING
        data = segment.data[known:] if known else segment.data
        start = segment.message > self._message
        self._message = max(self._message, segment.message)
        self._next = (segment.seq + length) & 0xFFFFFFFF
        whole = len(segment.data) == length
        chunks = (Chunk(data, gap, start),) if data or gap or start else _NOTHING
        return chunks if whole else (*chunks, Chunk(b"", True, False))
