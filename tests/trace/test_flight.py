"""The last seconds of every agent."""

from __future__ import annotations

from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.decode import TIME, pack_notes
from agentwatch.schema.events import Type
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.flight import FlightRecorder
from agentwatch.trace.record import LAYOUTS as RECORD_LAYOUTS
from agentwatch.trace.writer import ROUND_OVERHEAD
from tests.recordings import BEGAN, SECOND, connections
from tests.trace.samples import LAYOUT, notes, slot, slots

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


def test_a_tape_begins_with_what_was_so_then() -> None:
    rules = b"rules"
    flight = FlightRecorder(RECORD_LAYOUTS, "little", seconds=5, rules=rules, digest="first")
    begin = (int(Type.AGENT), BEGAN, 2, 0, 0, "other", "agentwatch/other", 2, "monitor")
    found = (int(Type.PROCESS), BEGAN, 1, 50, 7, 0, 0, "/bin/sh", ("sh", "-c", "x"), "/", 0, 0, 0, 0, 0)
    marker = (int(Type.MARKER), BEGAN, 1, 0, 0, "run", "7", "file")
    made = connections(30)
    flight.append(made[0])
    flight.append((Batch(BatchKind.NOTES, pack_notes([begin, found, marker])),))
    for batches in made[1:]:
        flight.append(batches)
    past, *tape = flight.tape(1)
    assert tape == made[-6:]
    state = State()
    for row in decode.notes(past[0].data):
        assert row[TIME] < BEGAN + 25 * SECOND
        state.apply(1, row)
    assert [agent.name for agent in state.agents.values()] == ["demo"]
    process = state.processes.known((50, 7))
    assert process is not None and process.argv == ("sh", "-c", "x")
    assert state.markers(process) == {"run": "7"}
    assert sorted(flow.remote_port for flow in state.flows.all()) == [1] * 24
    assert flight.rules == (rules, "first")


def test_rules_that_came_into_force_before_the_tape_are_its_rules() -> None:
    flight = FlightRecorder(RECORD_LAYOUTS, "little", seconds=5, rules=b"old", digest="old")
    reload = (int(Type.RULES), BEGAN, 0, 0, 0, "new", b"new")
    flight.append((Batch(BatchKind.NOTES, pack_notes([reload])),))
    assert flight.rules == (b"old", "old")
    for batches in connections(30):
        flight.append(batches)
    assert flight.rules == (b"new", "new")
