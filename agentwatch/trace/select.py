"""Leaves records out of rounds. What stays has the bytes that it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgpack  # type: ignore[import-untyped]

from agentwatch.schema.decode import AGENT, DecodeError, Row, notes, pack_notes, records, slots
from agentwatch.schema.events import HOST, RING_HEADER_SIZE, SLOT_SIZE
from agentwatch.sources.base import Batch, BatchKind, Round

Keep = Callable[[Row], bool]


def select(batches: Round, keep: Keep) -> Round:
    """The round with the records that `keep` wants; () where none is left.

    A batch that cannot be decoded is left out: nobody can tell whose records it holds.
    """
    kept = []
    for batch in batches:
        try:
            data = b"".join(_selected(batch, keep))
        except DecodeError:
            continue
        if data:
            kept.append(Batch(batch.kind, data))
    return tuple(kept)


def _selected(batch: Batch, keep: Keep) -> Iterator[bytes]:
    data = batch.data
    if batch.kind is BatchKind.NOTES:
        wanted = [keep(row) for row in notes(data)]
        items = msgpack.unpackb(data, use_list=False, strict_map_key=True) if any(wanted) else ()
        if items:
            yield pack_notes([item for item, is_wanted in zip(items, wanted, strict=True) if is_wanted])
    elif batch.kind is BatchKind.SLOTS:
        for place, row in enumerate(slots(data)):
            if keep(row):
                yield data[place * SLOT_SIZE : (place + 1) * SLOT_SIZE]
    else:
        # A record that is to be passed over has no row: each is decoded where it lies.
        for begin, end in places(data):
            if any(keep(row) for row in records(data[begin:end])):
                yield data[begin:end]


def places(data: bytes) -> Iterator[tuple[int, int]]:
    """Where records begin and end, padding included."""
    records(data)  # raises where they do not follow each other to the end
    begin = 0
    while begin < len(data):
        length = int.from_bytes(data[begin : begin + 4], "little") & 0x3FFFFFFF
        end = begin + ((length + RING_HEADER_SIZE + 7) & ~7)
        yield begin, end
        begin = end


def of_agent(number: int) -> Keep:
    """Keeps what concerns an agent, and what concerns all."""
    return lambda row: row[AGENT] in (number, HOST)
