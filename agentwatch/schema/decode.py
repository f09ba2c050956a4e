"""Decoders: batches of raw records into rows. The same for the live kernel and for a trace.

A row is `(length, time, type, flags, agent, tgid, tid, start, body)`. For kernel events `body`
holds the bytes behind the header, for notes the tuple of fields. Which fields a body has comes
from the schema: `unpack(row)`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, Union

import msgpack  # type: ignore[import-untyped]

from agentwatch.schema.events import BY_NUMBER, EVENTS, RING_HEADER_SIZE, SLOT_SIZE, Ring
from agentwatch.schema.layout import HEADER_SIZE, SLOT_BODY_SIZE, body, body_struct
from agentwatch.sources.base import Batch, BatchKind, Round

Row = tuple[int, int, int, int, int, int, int, int, Union[bytes, tuple[Any, ...]]]

LENGTH: Final = 0
TIME: Final = 1
TYPE: Final = 2
FLAGS: Final = 3
AGENT: Final = 4
TGID: Final = 5
TID: Final = 6
START: Final = 7
BODY: Final = 8

_SLOT = struct.Struct(f"<I4xQHHIIIQ{SLOT_BODY_SIZE}s")
_RECORD = struct.Struct("<I4xQHHIIIQ")
_BUSY, _DISCARDED = 1 << 31, 1 << 30

BODIES = {event.number: body_struct(event) for event in EVENTS if event.ring is not Ring.NOTES}
"""Fixed part of each kernel event's body."""

TAILS = {event.number: body(event)[1] - HEADER_SIZE for event in EVENTS if event.ring is Ring.RECORDS}
"""Offset in the body of the data that trails each record."""

assert _SLOT.size == SLOT_SIZE


class DecodeError(ValueError):
    """A batch is not what a source produces: damaged, or from another schema."""


def slots(batch: bytes) -> list[Row]:
    """Rows of a batch of 128-byte slots."""
    if len(batch) % SLOT_SIZE:
        raise DecodeError(f"a batch of slots has {len(batch)} bytes, no multiple of {SLOT_SIZE}")
    return list(_SLOT.iter_unpack(batch))


def records(batch: bytes) -> list[Row]:
    """Rows of a batch of records of variable length, 8-byte aligned, ring headers included."""
    rows: list[Row] = []
    offset, end = 0, len(batch)
    unpack_from, fixed = _RECORD.unpack_from, _RECORD.size
    while offset < end:
        if end - offset < fixed:
            raise DecodeError(f"a record is cut off at byte {offset} of {end}")
        row = unpack_from(batch, offset)
        length = row[LENGTH] & ~_DISCARDED
        following = offset + ((length + RING_HEADER_SIZE + 7) & ~7)
        if length < HEADER_SIZE or following > end:
            raise DecodeError(f"a record at byte {offset} says it has {length} bytes")
        if not row[LENGTH] & _DISCARDED:
            rows.append((*row, batch[offset + fixed : offset + RING_HEADER_SIZE + length]))
        offset = following
    return rows


def notes(batch: bytes) -> list[Row]:
    """Rows of a batch of notes: a msgpack array of [type, time, agent, tgid, start, field, ...]."""
    try:
        items = msgpack.unpackb(batch, use_list=False, strict_map_key=True)
    except Exception as error:  # msgpack raises many kinds for hostile bytes
        raise DecodeError(f"a batch of notes cannot be read: {error}") from None
    if not isinstance(items, tuple):
        raise DecodeError("a batch of notes is no array")
    return [_note(item) for item in items]


def _note(item: object) -> Row:
    if not isinstance(item, tuple) or len(item) < 5 or not all(isinstance(i, int) for i in item[:5]):
        raise DecodeError("a note does not begin with type, time, agent, process and start")
    number, time, agent, tgid, start = item[:5]
    event = BY_NUMBER.get(number)
    fields = item[5:]
    if event is not None and event.ring is Ring.NOTES:
        _check_fields(event.name, tuple(f.type for f in event.fields), fields)
    return (0, time, number, 0, agent, tgid, 0, start, fields)


_DECODERS: dict[BatchKind, Callable[[bytes], list[Row]]] = {
    BatchKind.SLOTS: slots,
    BatchKind.RECORDS: records,
    BatchKind.NOTES: notes,
}
_BY_TIME = itemgetter(TIME)


def rows_of_batch(batch: Batch) -> list[Row]:
    """Rows of a batch of any kind. Raises `DecodeError`."""
    return _DECODERS[batch.kind](batch.data)


def rows_of(batches: Round, unreadable: Callable[[], object] | None = None) -> list[Row]:
    """Rows of a round in the order in which they are folded.

    A batch that cannot be read is passed over; `unreadable` is called for each.
    """
    rows: list[Row] = []
    for batch in batches:
        try:
            rows += rows_of_batch(batch)
        except DecodeError:
            if unreadable is not None:
                unreadable()
    if len(batches) > 1 or (batches and batches[0].kind is BatchKind.SLOTS):
        # Rings fill side by side and CPUs race: time is the order. The sort is stable.
        rows.sort(key=_BY_TIME)
    return rows


_PYTHON = {"str": str, "bytes": bytes, "strs": tuple}


def _check_fields(name: str, types: tuple[str, ...], fields: tuple[Any, ...]) -> None:
    if len(fields) != len(types):
        raise DecodeError(f"a note {name} has {len(fields)} fields, not {len(types)}")
    for type, value in zip(types, fields, strict=True):
        if not isinstance(value, _PYTHON.get(type, int)):
            raise DecodeError(f"a note {name} has a {value.__class__.__name__} where {type} belongs")


def pack_notes(rows: list[tuple[Any, ...]]) -> bytes:
    """A batch of notes from `(type, time, agent, tgid, start, field, ...)`."""
    packed: bytes = msgpack.packb(rows, use_bin_type=True)
    return packed


def unpack(row: Row) -> tuple[Any, ...]:
    """The fields of a row, in the schema's order. Raises `DecodeError` for a body that is too short."""
    content = row[BODY]
    if isinstance(content, tuple):
        return content
    try:
        return BODIES[row[TYPE]].unpack_from(content)
    except (KeyError, struct.error) as error:
        raise DecodeError(f"a record of type {row[TYPE]} cannot be read: {error}") from None


def tail(row: Row, length: int) -> bytes:
    """The first `length` bytes of the data that trails a record; fewer where it has fewer."""
    content = row[BODY]
    if isinstance(content, tuple):
        raise DecodeError(f"a note of type {row[TYPE]} has no trailing data")
    begin = TAILS[row[TYPE]]
    return content[begin : begin + length]
