"""Memory layout of kernel events: natural alignment, little-endian, padding made explicit."""

from __future__ import annotations

import struct
from typing import NamedTuple

from agentwatch.schema.events import HEADER, RING_HEADER_SIZE, SLOT_SIZE, EventType, Field, Ring

_SCALARS = {"u8": (1, "B"), "u16": (2, "H"), "u32": (4, "I"), "u64": (8, "Q"), "s32": (4, "i")}


class Placed(NamedTuple):
    """A field and its byte offset from the start of the record (ring header not counted)."""

    field: Field
    offset: int
    size: int


def measure(field: Field) -> tuple[int, int, str]:
    """Size in bytes, alignment and `struct` format of a kernel field."""
    if field.type.startswith("bytes"):
        size = int(field.type[5:])
        return size, 1, f"{size}s"
    size, code = _SCALARS[field.type]
    return size, size, code


def place(fields: tuple[Field, ...], base: int) -> tuple[tuple[Placed, ...], int]:
    """Offsets of `fields` laid out from `base`, and where the last one ends."""
    placed = []
    for field in fields:
        size, align, _ = measure(field)
        if base % align:
            raise ValueError(f"field {field.name} is not aligned: order the fields by size")
        placed.append(Placed(field, base, size))
        base += size
    return tuple(placed), base


HEADER_FIELDS, HEADER_SIZE = place(HEADER, 0)
SLOT_BODY_SIZE = SLOT_SIZE - RING_HEADER_SIZE - HEADER_SIZE


def body(event: EventType) -> tuple[tuple[Placed, ...], int]:
    """Fields of a kernel event behind the header, and the size of the fixed part, header included.

    A slot's fixed part is the whole slot; a record's ends 8-byte aligned, where its tail begins.
    """
    placed, end = place(event.fields, HEADER_SIZE)
    if event.ring is Ring.SLOTS:
        if end > SLOT_SIZE - RING_HEADER_SIZE:
            raise ValueError(f"event {event.name} does not fit a slot")
        return placed, SLOT_SIZE - RING_HEADER_SIZE
    return placed, (end + 7) & ~7


def end_of_fields(event: EventType) -> int:
    """Offset behind the last field of a kernel event, before padding."""
    return place(event.fields, HEADER_SIZE)[1]


def body_struct(event: EventType) -> struct.Struct:
    """`struct.Struct` over an event's fields, to be unpacked at the start of its body."""
    return struct.Struct("<" + "".join(measure(field)[2] for field in event.fields))
