"""The last seconds of every agent."""

from __future__ import annotations

from pathlib import Path

from agentwatch.sources.base import BatchKind, Round
from agentwatch.trace.flight import FlightRecorder
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.writer import ROUND_OVERHEAD, TraceWriter
from tests.trace.samples import LAYOUT, header, notes, rounds, slot, slots

SECOND = 1_000_000_000
LAYOUTS = {BatchKind.SLOTS: LAYOUT, BatchKind.RECORDS: LAYOUT}


def _flight(seconds: float = 10, max_bytes: int = 1 << 20) -> FlightRecorder:
    return FlightRecorder(LAYOUTS, "little", seconds=seconds, max_bytes=max_bytes)


def _round(time: int, *agents: int) -> Round:
    return (slots(*(slot(time * SECOND, agent) for agent in agents)),)


def test_it_keeps_the_last_seconds() -> None:
    flight = _flight(seconds=10)
    made = [_round(time, 1) for time in range(1, 31)]
    for batches in made:
        flight.append(batches)
    assert flight.rounds() == made[19:]
    assert flight.dropped(1) == 0


def test_a_busy_agent_does_not_crowd_out_a_quiet_one() -> None:
    weight = 128 + ROUND_OVERHEAD
    flight = _flight(max_bytes=5 * weight)
    quiet = _round(1, 2)
    flight.append(quiet)
    busy = [_round(1, 1) for _ in range(100)]
    for batches in busy:
        flight.append(batches)
    assert flight.rounds([2]) == [quiet]
    assert len(flight.rounds([1])) == 5 and flight.dropped(1) == 95 and flight.dropped(2) == 0


def test_a_round_of_several_agents_comes_once_and_in_its_place() -> None:
    flight = _flight()
    made = [_round(1, 1), _round(2, 1, 2), _round(3, 2), _round(4, 3)]
    for batches in made:
        flight.append(batches)
    assert flight.rounds([1]) == made[:2]
    assert flight.rounds([2]) == made[1:3]
    assert flight.rounds([2, 1]) == made[:3]
    assert flight.rounds() == made


def test_what_concerns_the_host_comes_with_every_agent() -> None:
    flight = _flight()
    host: Round = (notes([68, SECOND, 0, 0, 0]),)
    flight.append(host)
    flight.append(_round(2, 1))
    assert flight.rounds([1]) == [host, _round(2, 1)]


def test_agents_that_fell_silent_are_let_go_of() -> None:
    flight = _flight(seconds=10)
    flight.append(_round(1, 1))
    flight.append(_round(5, 2))
    flight.append(_round(14, 3))
    assert flight.agents() == [2, 3]
    flight.forget(3)
    flight.forget(3)
    assert flight.agents() == [2]


def test_an_incident_holds_what_came_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "incident.awt"
    made = rounds(30)
    flight = FlightRecorder(LAYOUTS, "little")
    for batches in made[:20]:
        flight.append(batches)
    with TraceWriter(path, header(), backlog_bytes=64 << 20) as writer:
        assert flight.dump(writer) == 20
        for batches in made[20:]:
            writer.append(batches)
    with TraceReader(path) as reader:
        assert list(reader) == made and not reader.damage
