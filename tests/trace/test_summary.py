"""Counting what batches hold."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import MAX_KEYS, Layout
from agentwatch.trace.summary import Keys, Summariser, Summary
from tests.trace.samples import LAYOUT, START, notes, record, records, slot, slots

summarise = Summariser({BatchKind.SLOTS: LAYOUT, BatchKind.RECORDS: LAYOUT}, "little")


def _found(*batches: Batch) -> tuple[int, int, int, set[int], set[int]]:
    found = summarise([batches])
    return found.records, found.first_time, found.last_time, found.agents, found.pids


def test_slots() -> None:
    batch = slots(slot(START + 5, 1, 100), slot(START, 2, 200), slot(START + 9, 1, 101))
    assert _found(batch) == (3, START, START + 9, {1, 2}, {100, 101, 200})


def test_discarded_slots_hold_nothing() -> None:
    batch = slots(slot(START + 5, 1, 100), slot(START, 2, 200, discarded=True))
    assert _found(batch) == (1, START + 5, START + 5, {1}, {100})
    assert _found(slots(slot(START, discarded=True))) == (0, 0, 0, set(), set())


def test_records_of_every_length() -> None:
    parts = [record(START + size, bytes(size), 3, 300 + size) for size in range(20)]
    assert _found(records(*parts)) == (20, START, START + 19, {3}, {300 + size for size in range(20)})


def test_discarded_records_are_stepped_over() -> None:
    gone = bytearray(record(START, b"x" * 50, 9, 9))
    gone[3] |= 0x40
    assert _found(records(bytes(gone), record(START + 1, b"", 1, 2))) == (1, START + 1, START + 1, {1}, {2})


def test_a_record_that_is_not_finished_ends_the_walk() -> None:
    busy = bytearray(record(START, b"", 9, 9))
    busy[3] |= 0x80
    assert _found(records(record(START, b"", 1, 2), bytes(busy), record(START, b"", 3, 3)))[0] == 1


def test_notes() -> None:
    batch = notes([64, START + 2, 1, 50, 0, "x", [b"y", None]], [68, START, 0, 0, 0])
    assert _found(batch) == (2, START, START + 2, {0, 1}, {0, 50})


def test_batches_of_a_round_add_up() -> None:
    found = _found(slots(slot(START)), records(record(START - 1, b"", 5, 5)), notes([1, START + 1, 6, 6]))
    assert found == (3, START - 1, START + 1, {1, 5, 6}, {100, 5, 6})


def test_fields_may_lie_in_any_order_and_the_kernel_may_be_big_endian() -> None:
    layout = Layout(time=(100, 8), agent=(40, 2), pid=(16, 4))
    data = bytearray(128)
    data[0:4] = (120).to_bytes(4, "big")
    data[100:108] = START.to_bytes(8, "big")
    data[40:42] = (7).to_bytes(2, "big")
    data[16:20] = (70000).to_bytes(4, "big")
    for kind in (BatchKind.SLOTS, BatchKind.RECORDS):
        found = Summariser({kind: layout}, "big")([(Batch(kind, bytes(data)),)])
        assert (found.records, found.first_time, found.agents, found.pids) == (1, START, {7}, {70000})


@given(st.lists(st.tuples(st.sampled_from(list(BatchKind)), st.binary(max_size=400))))
def test_any_bytes_are_taken(parts: list[tuple[BatchKind, bytes]]) -> None:
    batches: Round = tuple(Batch(kind, data) for kind, data in parts)
    found = summarise([batches])
    assert found.records <= sum(len(data) for _, data in parts)
    assert 0 <= found.first_time <= found.last_time < 1 << 64


def test_keys_say_what_a_frame_may_hold() -> None:
    keys = Keys.unpack(Summary(agents={1, 2}, pids={100}).pack())
    assert keys.may_hold() and keys.may_hold(agent=1) and keys.may_hold(2, 100)
    assert not keys.may_hold(agent=3) and not keys.may_hold(1, 101)


def test_what_concerns_everyone_is_never_ruled_out() -> None:
    keys = Keys.unpack(Summary(agents={0}, pids={0, 5}).pack())
    assert keys.may_hold(agent=3, pid=9)


def test_too_many_keys_are_not_listed() -> None:
    keys = Keys.unpack(Summary(agents={1}, pids=set(range(MAX_KEYS + 1))).pack())
    assert keys.pids is None and keys.may_hold(1, 10**6) and not keys.may_hold(2, 5)


@given(st.binary(max_size=40))
def test_no_summary_raises_anything_but_a_trace_error(data: bytes) -> None:
    with contextlib.suppress(TraceError):
        Keys.unpack(data)


@pytest.mark.parametrize("time", [(4, 8), (8, 3), (125, 8), (8, 16)])
def test_layouts_that_make_no_sense_are_refused(time: tuple[int, int]) -> None:
    with pytest.raises(TraceError):
        Layout(time, (20, 4), (24, 4))
