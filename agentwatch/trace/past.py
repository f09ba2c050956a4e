"""What is known at some point of a recording, as records: a trace that begins there can be replayed.

Told are agents (with what they lost, their state and markers), processes that live and those above
them, open flows, missing probes and GPUs. Not told is what detectors had seen of a flow by then, names from
DNS, and how many bytes a flow had carried.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from agentwatch.enrich.flows import IPV4_IN_IPV6, Flow
from agentwatch.enrich.markers import CLAIMED, Markers
from agentwatch.enrich.processes import Process
from agentwatch.enrich.state import Agent, State
from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, TIME, TYPE, DecodeError, Row
from agentwatch.schema.events import BY_NAME, HOST, Type
from agentwatch.sources.base import Batch, BatchKind, Round

_ACTS: Final = {"paused": "pause", "blocked": "block"}  # by the state that they lead to
BEFORE: Final = "before this trace begins"
FORGET_EXITS: Final = 1024  # processes that may have ended before those that nobody asks for are forgotten
_NOTES_IN_ROUND: Final = 512
_BY_TIME = itemgetter(TIME)
_AGENT, _EXIT, _RULES = int(Type.AGENT), int(Type.EXIT), int(Type.RULES)
_Note = tuple[Any, ...]


def rows_of(batches: Round) -> list[Row]:
    """The rows of a round in the order of their times; what cannot be read is passed over."""
    return sorted(decode.rows_of(batches), key=_BY_TIME)


class Past:
    """A state folded from rounds. `of` limits it to the records of these agents.

    `rules` are the bytes of the rules in force then, and `digest` is theirs.
    """

    def __init__(self, rules: bytes = b"", digest: str = "", of: Collection[int] | None = None) -> None:
        self.state = State()
        self.rules, self.digest = rules, digest
        self.time = 0
        self._of = of
        self._seq = self._exits = 0

    def fold(self, batches: Round) -> None:
        """Fold a round as the pipeline does. Never raises: what cannot be read is passed over."""
        for row in rows_of(batches):
            if self._of is None or row[AGENT] in self._of:
                self._apply(row)

    def _apply(self, row: Row) -> None:
        self._seq += 1
        if row[TYPE] == _AGENT and self._of is not None:
            self.state = State()  # the number is another agent's from here on
        try:
            change = self.state.apply(self._seq, row)
        except DecodeError:
            return
        self.time = max(self.time, row[TIME])
        if row[TYPE] == _EXIT:
            self._exits += 1
            if self._exits >= FORGET_EXITS:
                self._forget()
        if row[TYPE] == _RULES and change is not None and change.fields[1]:
            self.digest, self.rules = change.fields

    def _forget(self) -> None:
        """Keep what is told and nothing else: there may be a past for each agent, and all are in memory."""
        self._exits = 0
        short = State()
        for batches in self.rounds():
            for seq, row in enumerate(rows_of(batches), self._seq):
                short.apply(seq, row)
        self.state = short

    def rounds(self) -> list[Round]:
        """The state as records, all of the time of the last record that was folded."""
        return list(told(self.state, self.time))


def told(state: State, time: int) -> Iterator[Round]:
    """A state as records of this time, some hundreds in a round."""
    notes = ((number, time, *rest) for number, *rest in _notes(state))
    while piece := list(islice(notes, _NOTES_IN_ROUND)):
        yield (Batch(BatchKind.NOTES, decode.pack_notes(piece)),)


def _notes(state: State) -> Iterator[_Note]:
    """Notes without their time: (type, agent, pid, start, field, ...)."""
    for agent in sorted(state.agents.values(), key=lambda agent: agent.number):
        yield from _of_agent(agent)
        if training := state.processes.training_of(agent.number):
            yield Type.TRAINING, agent.number, 0, 0, tuple(sorted(training))
    for probe, error, cost in dict.fromkeys(state.coverage):
        yield Type.COVERAGE, HOST, 0, 0, probe, error, cost
    for process in _living(state):
        yield from _of_process(process)
    for flow in state.flows.all():
        if not flow.closed and (note := _of_flow(flow)) is not None:
            yield note


def _of_agent(agent: Agent) -> Iterable[_Note]:
    number = agent.number
    if number != HOST:
        yield Type.AGENT, number, 0, 0, agent.name, agent.cgroup, agent.cgroup_id, agent.mode
    for name, lost in sorted(agent.lost.items()):
        yield Type.LOSS, number, 0, 0, int(BY_NAME[name].number) if name in BY_NAME else 0, lost, BEFORE
    if agent.only or agent.without:
        yield Type.POLICY, number, 0, 0, "", agent.mode, "", agent.only, agent.without, (), BEFORE
    if (act := _ACTS.get(agent.state)) is not None:
        yield Type.ACTION, number, 0, 0, 0, agent.acted_by, act, "done", "", 0, 0
    yield from _of_markers(number, 0, 0, agent.markers)


def _of_markers(number: int, pid: int, start: int, markers: Markers) -> Iterable[_Note]:
    for name, marker in markers.items():
        yield Type.MARKER, number, pid, start, name, marker.value, CLAIMED if marker.claimed else BEFORE


def _living(state: State) -> list[Process]:
    """Processes that have not ended, and all above them, parents first."""
    found: dict[tuple[int, int], Process] = {}
    for process in state.processes.all():
        if process.status is None and process.pid:
            for one in (process, *state.processes.ancestors(process)):
                found[one.key] = one
    return sorted(found.values(), key=lambda process: (process.start, process.pid))


def _of_process(process: Process) -> Iterable[_Note]:
    head = process.agent, process.pid, process.start
    yield (
        *(Type.PROCESS, *head, *(process.parent or (0, 0))),
        *(process.exe, process.argv, process.cwd, process.uid, process.euid, process.gid),
        *(process.flags, int("Argv" in process.truncated)),
    )
    yield from _of_markers(*head, process.markers)


def _of_flow(flow: Flow) -> _Note | None:
    """None for what is no flow of IPv4 or IPv6."""
    try:
        local, remote = _packed(flow, flow.local), _packed(flow, flow.remote)
    except OSError:
        return None
    state = "established" if flow.remote_port else "open"
    return (
        *(Type.SOCKET_SEEN, flow.agent, *flow.owner, flow.cookie, flow.family, flow.socktype, flow.protocol),
        *(local, flow.local_port, remote, flow.remote_port, state),
    )


def _packed(flow: Flow, address: str) -> bytes:
    """An address as the kernel has it. Raises `OSError`."""
    if not address:
        return bytes(4 if flow.family == socket.AF_INET else 16)
    if flow.family == socket.AF_INET6 and ":" not in address:
        return IPV4_IN_IPV6 + socket.inet_pton(socket.AF_INET, address)
    return socket.inet_pton(flow.family, address)
