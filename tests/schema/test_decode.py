from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.schema import decode
from agentwatch.schema.decode import DecodeError
from agentwatch.schema.events import Type
from tests.schema.records import raw


def test_slots_give_rows_in_order() -> None:
    batch = raw("fork", time=5, parent=3, parent_start=9) + raw("exit", time=6, status=256)
    first, second = decode.slots(batch)
    assert (first[decode.TIME], first[decode.TYPE]) == (5, Type.FORK)
    assert decode.unpack(first) == (9, 0, 3)
    assert decode.unpack(second) == (256,)


def test_slots_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(DecodeError, match="no multiple"):
        decode.slots(raw("fork")[:-1])


def test_records_of_different_lengths_follow_each_other() -> None:
    batch = raw("exec_piece", length=5, kind=3, data=b"hello") + raw("unix_connect", length=2, data=b"/x")
    piece, unix = decode.records(batch)
    assert decode.tail(piece, 5) == b"hello"
    assert decode.tail(unix, 2) == b"/x"


def test_discarded_records_are_passed_over() -> None:
    discarded = bytearray(raw("exec_piece", data=b"gone"))
    discarded[3] |= 0x40
    rows = decode.records(bytes(discarded) + raw("exec_piece", data=b"kept"))
    assert [decode.tail(row, 4) for row in rows] == [b"kept"]


@pytest.mark.parametrize("cut", [1, 8, 39])
def test_cut_record_is_refused(cut: int) -> None:
    with pytest.raises(DecodeError):
        decode.records(raw("payload", data=b"x" * 64)[:-cut])


def test_record_that_claims_too_little_is_refused() -> None:
    record = bytearray(raw("payload", data=b"x" * 64))
    record[:4] = (8).to_bytes(4, "little")
    with pytest.raises(DecodeError, match="says it has 8 bytes"):
        decode.records(bytes(record))


def test_short_body_is_refused_when_unpacked() -> None:
    (row,) = decode.records(raw("exec_piece", data=b""))
    wrong = (*row[:2], int(Type.EXEC), *row[3:])
    with pytest.raises(DecodeError, match="cannot be read"):
        decode.unpack(wrong)


def test_notes_carry_their_fields() -> None:
    batch = decode.pack_notes([(int(Type.LOSS), 5, 1, 0, 0, 34, 7, "ring full")])
    (row,) = decode.notes(batch)
    assert row[decode.TIME] == 5
    assert decode.unpack(row) == (34, 7, "ring full")


@pytest.mark.parametrize(
    "item", [[1, 2], "text", [int(Type.LOSS), 1, 1, 1, 1], [int(Type.LOSS), 1, 1, 1, 1, "x", 1, "y"], None]
)
def test_note_of_a_wrong_shape_is_refused(item: object) -> None:
    with pytest.raises(DecodeError):
        decode.notes(decode.pack_notes([item]))  # type: ignore[list-item]


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for decoder in (decode.slots, decode.records, decode.notes):
        try:
            rows = decoder(data)
        except DecodeError:
            continue
        for row in rows:
            try:
                decode.unpack(row)
            except DecodeError:
                continue
