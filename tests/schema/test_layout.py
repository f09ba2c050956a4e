from __future__ import annotations

import pytest

from agentwatch.schema.c_header import emit
from agentwatch.schema.events import BY_NUMBER, EVENTS, SLOT_SIZE, EventType, Field, Ring, Type
from agentwatch.schema.layout import HEADER_SIZE, SLOT_BODY_SIZE, body, body_struct, place


def test_every_type_has_exactly_one_event() -> None:
    assert sorted(BY_NUMBER) == sorted(int(t) for t in Type)
    assert len(EVENTS) == len(BY_NUMBER)
    assert all(Type[event.name.upper()] == event.number for event in EVENTS)


def test_slots_are_full_and_records_end_aligned() -> None:
    for event in EVENTS:
        if event.ring is Ring.SLOTS:
            assert body(event)[1] == SLOT_SIZE - 8
            assert body_struct(event).size <= SLOT_BODY_SIZE
        elif event.ring is Ring.RECORDS:
            assert body(event)[1] % 8 == 0


def test_struct_format_agrees_with_placed_offsets() -> None:
    for event in EVENTS:
        if event.ring is not Ring.NOTES:
            placed, _ = body(event)
            last = placed[-1]
            assert HEADER_SIZE + body_struct(event).size == last.offset + last.size


def test_misaligned_field_is_refused() -> None:
    with pytest.raises(ValueError, match="not aligned"):
        place((Field("a", "u8", ""), Field("b", "u64", "")), 0)


def test_event_that_does_not_fit_a_slot_is_refused() -> None:
    event = EventType("big", 1, Ring.SLOTS, "", (Field("a", "bytes200", ""),))
    with pytest.raises(ValueError, match="does not fit"):
        body(event)


def test_header_asserts_every_offset() -> None:
    text = emit()
    assert (
        '_Static_assert(__builtin_offsetof(struct aw_close, bytes_out) == 80, "aw_close.bytes_out");' in text
    )
    assert '_Static_assert(sizeof(struct aw_header) == 32, "size of aw_header");' in text
