"""The ring readers, on the real rings of the probes."""

from __future__ import annotations

import os

import pytest

from agentwatch.kernel.probes import RECORDS_BYTES, SLOTS_BYTES
from agentwatch.kernel.ring import Ring
from agentwatch.schema import decode
from agentwatch.schema.events import SLOT_SIZE, Piece, Type
from tests.lab import compiled
from tests.lab.watched import watched

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_slots_come_in_order_and_none_is_missed_however_often_the_ring_turns() -> None:
    """More than twice the ring's size of connects, read in batches of odd sizes."""
    wanted = 2 * SLOTS_BYTES // SLOT_SIZE + 1000
    with watched([str(compiled("flood")), "udp-connect", "200000", "3"]) as agent:
        ring: Ring = agent.session.source._slots
        seen, last, size = 0, 0, 1
        while agent.cgroup.populated() or ring.pending():
            batch = ring.take_slots(size)
            size = size * 7 % 4099 + 1
            for row in decode.slots(batch):
                if row[decode.TYPE] == Type.CONNECT:
                    seen += 1
                    assert row[decode.TIME] >= last
                    last = row[decode.TIME]
        sent = {number: (sent, lost) for number, sent, lost in agent.session.probes.counts(1)}
    assert sent[Type.CONNECT] == (seen, 0)
    assert seen >= min(wanted, 100_000)


def test_records_are_taken_whole_whatever_the_limit() -> None:
    with watched(["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do /bin/true $i; done"]) as agent:
        ring: Ring = agent.session.source._records
        rows = []
        while agent.cgroup.populated() or ring.pending():
            rows += decode.records(ring.take_records(100))
    executed = [row for row in rows if row[decode.TYPE] == Type.EXEC]
    assert len(executed) == 9


def test_a_record_that_goes_past_the_end_of_the_ring_is_whole() -> None:
    """More than twice the ring's size of arguments; a turn of it ends within one of their pieces."""
    text, times = 30_000, 320
    with watched(["sh", "-c", f"for i in $(seq {times}); do /bin/true $0; done", "x" * text]) as agent:
        ring: Ring = agent.session.source._records
        taken, rows = 0, []
        while agent.cgroup.populated() or ring.pending():
            batch = ring.take_records(1 << 20)
            taken += len(batch)
            rows += decode.records(batch)
    assert taken > 2 * RECORDS_BYTES
    assert sum(row[decode.TYPE] == Type.EXEC for row in rows) == times + 2  # sh, seq
    characters = 0
    for row in rows:
        if row[decode.TYPE] == Type.EXEC_PIECE:
            _, length, kind = decode.unpack(row)
            characters += decode.tail(row, length).count(b"x") if kind == Piece.ARGV else 0
    assert characters == text * (times + 1)


def test_a_full_ring_counts_what_it_refuses_and_goes_on_afterwards() -> None:
    with watched(["sh", "-c", f"{compiled('flood')} udp-connect 0 1; exec sleep 600"]) as agent:
        agent.until("exec")
        while agent.session.source._slots.pending() < SLOTS_BYTES * 3 // 4:
            assert agent.cgroup.populated()
        while not any(lost for _, _, lost in agent.session.probes.counts(1)):
            assert agent.cgroup.populated()
        agent.session.source.count_losses()
        while not agent.named("loss"):
            agent.step()
        assert agent.named("loss")[0]["event"] == Type.CONNECT
        assert agent.session.state.agent(1).lost["connect"] > 0
