"""Readers of BPF ring buffers on the mapped memory, in batches.

A ring is mapped as one page with the consumer's position, one with the producer's, and the data
(kernel/bpf/ringbuf.c). The kernel offers the data twice in a row, so that no record is ever split;
but each page that is mapped counts as resident memory, so it is mapped once, and what goes past
the end is joined when it is copied out. Each record begins, at a multiple of 8, with struct
bpf_ringbuf_hdr {u32 len; u32 pg_off;}; bit 31 of len says that it is not committed yet.
Batches are copied out as they lie, ring headers included: what is recorded is what came.
"""

from __future__ import annotations

import mmap

from agentwatch.kernel.bpf import Handle
from agentwatch.schema.events import RING_HEADER_SIZE, SLOT_SIZE

BUSY = 1 << 31
DISCARDED = 1 << 30
_PAGE = mmap.PAGESIZE


class Ring:
    """One ring of `size` bytes (a power of two). Not safe for several readers."""

    def __init__(self, handle: Handle, size: int) -> None:
        self.handle = handle
        self._size = size
        consumer = mmap.mmap(handle.fileno(), _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        producer = mmap.mmap(handle.fileno(), _PAGE + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._maps = (consumer, producer)
        self._consumed = memoryview(consumer).cast("Q")
        self._produced = memoryview(producer)[:_PAGE].cast("Q")
        self._data = memoryview(producer)[_PAGE:]
        self._words = self._data.cast("I")

    def pending(self) -> int:
        """Bytes produced and not taken yet."""
        return int(self._produced[0] - self._consumed[0])

    def take_slots(self, most: int) -> bytes:
        """Up to `most` committed slots of a ring whose records all take SLOT_SIZE bytes."""
        position = self._consumed[0]
        begin = position % self._size
        # Not past the end of the ring, which is the end of a slot.
        count = min((self._produced[0] - position) // SLOT_SIZE, most, (self._size - begin) // SLOT_SIZE)
        if not count:
            return b""
        # Lengths are read before the data: a record that is committed by now is whole.
        stride = SLOT_SIZE // 4
        lengths = self._words[begin // 4 : begin // 4 + count * stride : stride].tolist()
        if max(lengths) >= BUSY:
            count = next(i for i, length in enumerate(lengths) if length >= BUSY)
        batch = bytes(self._data[begin : begin + count * SLOT_SIZE])
        self._consumed[0] = position + len(batch)
        return batch

    def take_records(self, most: int) -> bytes:
        """Committed records, about `most` bytes at the most."""
        position, produced = self._consumed[0], self._produced[0]
        words, size = self._words, self._size
        begin = end = position % size
        limit = begin + min(produced - position, most)
        while end < limit:
            length = words[end % size // 4]
            if length >= BUSY:
                break
            end += ((length & ~DISCARDED) + RING_HEADER_SIZE + 7) & ~7
        batch = bytes(self._data[begin:end])
        if end > size:
            batch += self._data[: end - size]
        self._consumed[0] = position + len(batch)
        return batch

    def close(self) -> None:
        """Unmap. The map itself belongs to its handle."""
        for view in (self._words, self._data, self._produced, self._consumed):
            view.release()
        for mapped in self._maps:
            mapped.close()
