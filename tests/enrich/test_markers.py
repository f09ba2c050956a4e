"""Markers: bounded, inherited, and the agent's own word beside that of others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.enrich import markers
from agentwatch.enrich.markers import CLAIMED, NO_MARKERS, joined, put
from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.events import Type
from tests.schema.records import raw

Note = tuple[int, int, int, int, int, str, str, str]


def note(name: str, value: str, source: str = "environment", tgid: int = 0) -> Note:
    return (int(Type.MARKER), 5, 1, tgid, tgid * 10, name, value, source)


def state_of(*steps: Note | bytes) -> State:
    state = State()
    for seq, step in enumerate(steps, 1):
        rows = decode.slots(step) if isinstance(step, bytes) else decode.notes(decode.pack_notes([step]))
        for row in rows:
            state.apply(seq, row)
    return state


def fork(child: int, parent: int) -> bytes:
    return raw("fork", tgid=child, start=child * 10, parent=parent, parent_start=parent * 10)


def told(state: State, pid: int) -> dict[str, str]:
    process = state.processes.known((pid, pid * 10))
    assert process is not None
    return state.markers(process)


def test_a_process_has_what_stood_on_its_parent_when_it_began() -> None:
    state = state_of(
        note("run", "7"),
        fork(20, 10),
        note("tool", "first", tgid=20),
        fork(21, 20),
        note("tool", "second", tgid=20),
        fork(22, 20),
        note("tool", "", tgid=20),
        note("run", "8"),
    )
    assert told(state, 21) == {"run": "8", "tool": "first"}
    assert told(state, 22) == {"run": "8", "tool": "second"}
    assert told(state, 20) == {"run": "8"}


def test_an_agent_does_not_overrule_what_was_said_of_it() -> None:
    state = state_of(
        fork(20, 10),
        note("run", "7"),
        note("run", "666", CLAIMED),
        note("run", "667", CLAIMED, tgid=20),
        note("tool", "shell", CLAIMED, tgid=20),
    )
    assert told(state, 20) == {"run": "7", "tool": "shell"}
    assert told(state_of(fork(20, 10), note("run", "1", CLAIMED, 20), note("run", "7")), 20) == {"run": "7"}


def test_a_flood_of_the_agents_own_leaves_those_of_others() -> None:
    kept = put(NO_MARKERS, "run", "7", "environment")
    for number in range(1000):
        kept = put(kept, f"n{number}", "x" * 10_000, CLAIMED)
    assert len(kept) == markers.KEPT
    assert kept["run"].value == "7"
    assert len(kept["n999"].value) == markers.VALUE_LENGTH


@given(st.lists(st.tuples(st.text(), st.text(), st.sampled_from([CLAIMED, "file", ""]))))
def test_nothing_grows_without_bound(steps: list[tuple[str, str, str]]) -> None:
    kept = NO_MARKERS
    for name, value, source in steps:
        kept = put(kept, name, value, source)
    assert len(kept) <= markers.KEPT
    assert all(len(name) <= markers.NAME_LENGTH for name in kept)
    assert joined(kept, NO_MARKERS) == {name: marker.value for name, marker in kept.items()}
