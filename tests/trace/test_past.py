"""What is known at some point, as records: telling it and folding what was told gives the same."""

from __future__ import annotations

from typing import Any

from agentwatch.enrich.state import State
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import Type
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.past import FORGET_EXITS, Past, told
from tests.recordings import BEGAN
from tests.schema.records import raw


def slots(*data: bytes) -> Round:
    return (Batch(BatchKind.SLOTS, b"".join(data)),)


def note(type: Type, *fields: object, pid: int = 0) -> Round:
    return (Batch(BatchKind.NOTES, pack_notes([(int(type), BEGAN, 1, pid, pid * 10, *fields)])),)


def fork(child: int, parent: int) -> bytes:
    return raw("fork", tgid=child, start=child * 10, parent=parent, parent_start=parent * 10, time=BEGAN)


def ended(pid: int) -> bytes:
    return raw("exit", tgid=pid, start=pid * 10, time=BEGAN)


def flow(cookie: int, family: int, remote: bytes) -> bytes:
    return raw("connect", tgid=10, start=100, time=BEGAN, cookie=cookie, family=family, socktype=1,
               protocol=6, remote=remote, remote_port=443, local=remote, local_port=5)  # fmt: skip


STORY = (
    note(Type.AGENT, "job", "agentwatch/job", 7, "enforce"),
    note(Type.PROCESS, 1, 1, "/bin/sh", ("sh", "x"), "/tmp", 5, 6, 7, 0, 1, pid=10),
    note(Type.MARKER, "run", "7", "file"),
    note(Type.MARKER, "tool", "sh", "agent", pid=10),
    note(Type.LOSS, int(Type.CONNECT), 5, "ring full"),
    note(Type.ACTION, 3, "a rule", "pause", "done", "", 1, 2),
    slots(fork(20, 10), fork(30, 20), ended(20), fork(40, 10), ended(40)),
    slots(
        flow(1, 2, b"\x01\x02\x03\x04".ljust(16, b"\0")),
        flow(2, 10, b"\x20\x01".ljust(16, b"\0")),
        flow(3, 10, (b"\0" * 10 + b"\xff\xff\x01\x02\x03\x04")),
    ),
)


def folded(*rounds: Round) -> Past:
    past = Past()
    for batches in rounds:
        past.fold(batches)
    return past


def described(state: State) -> tuple[list[Any], list[Any]]:
    """Processes and flows, but for what ended and nobody asks for."""
    processes: list[Any] = sorted(
        (one.key, one.parent, one.exe, one.argv, one.uid, one.euid, sorted(one.truncated), [*one.markers])
        for one in state.processes.all()
        if one.pid != 40
    )
    return processes, [
        (one.cookie, one.family, one.local, one.remote, one.remote_port, one.owner)
        for one in state.flows.all()
    ]


def test_what_is_told_is_what_was_known() -> None:
    past = folded(*STORY)
    again = folded(*past.rounds())
    (agent,) = [one for one in again.state.agents.values() if one.number == 1]
    assert (agent.state, agent.acted_by, agent.lost) == ("paused", "a rule", {"connect": 5})
    assert sorted(one.pid for one in again.state.processes.all()) == [10, 20, 30]
    assert again.state.markers(again.state.processes.all()[-1]) == {"run": "7", "tool": "sh"}
    assert described(again.state) == described(past.state)


def test_what_was_claimed_stays_a_claim() -> None:
    again = folded(*folded(*STORY).rounds())
    again.fold(note(Type.MARKER, "run", "8", "agent"))
    again.fold(note(Type.MARKER, "tool", "other", "agent", pid=10))
    process = again.state.processes.known((10, 100))
    assert process is not None and again.state.markers(process) == {"run": "7", "tool": "other"}


def test_processes_that_ended_are_not_kept_for_ever() -> None:
    past = folded(*STORY)
    for number in range(100, 100 + 5 * FORGET_EXITS):
        past.fold(slots(fork(number, 10), ended(number)))
    assert len(past.state.processes.all()) <= FORGET_EXITS + 4
    assert past.state.processes.known((30, 300)) is not None
    assert past.state.agent(1).lost == {"connect": 5}


def test_a_state_without_anything_tells_nothing() -> None:
    assert list(told(State(), 0)) == []
