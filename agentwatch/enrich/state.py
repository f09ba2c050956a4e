"""What is known of the agents: records are folded into it, one after the other.

`State.apply` takes one row and returns a `Change`: what the record was about, with the process
and the flow it concerns. Nothing here looks at a clock, a file or the machine.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentwatch.enrich.files import FileNames
from agentwatch.enrich.flows import HEAD_BYTES, Flow, FlowTable
from agentwatch.enrich.gpus import GpuTable
from agentwatch.enrich.markers import NO_MARKERS, Markers, joined, put
from agentwatch.enrich.processes import Process, ProcessTable
from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, FLAGS, START, TGID, TIME, TYPE, Row
from agentwatch.schema.events import BY_NUMBER, DONE, HOST, SOCKET_BLOCK, PayloadFlag, Type

NAMES_KEPT = 4096  # addresses whose name was seen in a DNS answer
FILES_KEPT = 256  # files read for detectors
_BLOCK = len(SOCKET_BLOCK)
# Plain numbers: to compare with members of an enumeration costs more than the rest of a handler.
_CONNECTING = (int(Type.CONNECT), int(Type.SEND))
_ACCEPT, _CONNECTED = int(Type.ACCEPT), int(Type.CONNECTED)
_INCOMING = int(PayloadFlag.IN)
_ADDRESS = {socket.AF_INET: 4, socket.AF_INET6: 16}  # bytes


AgentState = Literal["running", "blocked", "paused", "killed"]
_STATE_AFTER: dict[str, AgentState] = {
    "block": "blocked",
    "pause": "paused",
    "kill": "killed",
    "resume": "running",
}


@dataclass(slots=True)
class Agent:
    """A process tree under watch. `state` is running, blocked, paused or killed."""

    number: int
    since: int = 0  # sequence number of the record that it begins with
    name: str = ""
    cgroup: str = ""
    cgroup_id: int = 0
    mode: str = "monitor"
    only: tuple[str, ...] = ()  # the rules that speak of it, where not all do: see `rules.selection`
    without: tuple[str, ...] = ()  # the rules that do not
    state: AgentState = "running"
    acted_by: str = ""  # who acted on it last: a rule's id, or the operator's name and reason
    lost: dict[str, int] = field(default_factory=dict)  # events lost, by name
    markers: Markers = field(default_factory=lambda: NO_MARKERS)
    gpu_time: int = 0  # of all its processes, ended ones too, in ns: see `GpuUse.busy`

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from those that had its number before."""
        return self.number, self.since


class Change:
    """One record, understood. `fields` are the record's own, in the schema's order."""

    __slots__ = ("agent", "data", "fields", "flow", "payload_flags", "process", "seq", "time", "type")

    def __init__(
        self,
        seq: int,
        type: int,
        time: int,
        agent: Agent,
        process: Process,
        flow: Flow | None,
        fields: tuple[Any, ...],
        data: bytes = b"",
        payload_flags: int = 0,
    ) -> None:
        self.seq = seq
        self.type = type
        self.time = time
        self.agent = agent
        self.process = process
        self.flow = flow
        self.fields = fields
        self.data = data
        self.payload_flags = payload_flags

    def about(self, process: Process, flow: Flow | None) -> Change:
        """The same, of another process or flow."""
        return Change(self.seq, self.type, self.time, self.agent, process, flow, self.fields, self.data,
                      self.payload_flags)  # fmt: skip

    @property
    def incoming(self) -> bool:
        """Whether the bytes of a payload came from the peer."""
        return bool(self.payload_flags & _INCOMING)


class State:
    """Agents, processes, flows, GPUs and names, folded from records.

    `training` are the paths of programs and scripts that the operator named as the training job.
    """

    def __init__(self, users: Mapping[int, str] | None = None, training: Collection[str] = ()) -> None:
        self.users = users or {}
        self.agents: dict[int, Agent] = {}
        self.processes = ProcessTable(training)
        self.flows = FlowTable()
        self.gpus = GpuTable()
        self.files: dict[str, bytes] = {}
        self._file_names = FileNames()
        self.names: dict[str, str] = {}
        self.coverage: list[tuple[str, str, str]] = []
        self.rules_digest = ""
        sockets: dict[int, Callable[[int, Row, Agent], Change]] = dict.fromkeys(
            (Type.BIND, Type.LISTEN, Type.ACCEPT, Type.CONNECT, Type.CONNECTED, Type.SEND), self._socket
        )
        self._handlers: dict[int, Callable[[int, Row, Agent], Change | None]] = {
            **sockets,
            Type.FORK: self._fork,
            Type.EXIT: self._exit,
            Type.SOCKET: self._plain,
            Type.CLOSE: self._close,
            Type.FLOW_PROGRESS: self._progress,
            Type.SIGNAL: self._plain,
            Type.DENIED: self._plain,
            Type.EXEC: self._exec,
            Type.EXEC_PIECE: self._piece,
            Type.PAYLOAD: self._payload,
            Type.UNIX_CONNECT: self._with_tail,
            Type.CGROUP_MOVE: self._with_tail,
            Type.FILE_ACCESS: self._file_access,
            Type.PRIVILEGED: self._privileged,
            Type.PROCESS: self._process,
            Type.SOCKET_SEEN: self._socket_seen,
            Type.FILE: self._file,
            Type.ACTION: self._action,
            Type.LOSS: self._loss,
            Type.COVERAGE: self._coverage,
            Type.AGENT: self._agent,
            Type.POLICY: self._policy,
            Type.RULES: self._rules,
            Type.GPU_DEVICE: self._gpu_device,
            Type.GPU_SAMPLE: self._gpu_sample,
            Type.GPU_USE: self._gpu_use,
            Type.GPU_GONE: self._gpu_gone,
            Type.MARKER: self._marker,
            Type.TRAINING: self._training,
        }

    def agent(self, number: int) -> Agent:
        agent = self.agents.get(number)
        if agent is None:
            agent = self.agents[number] = Agent(number, name=f"agent-{number}" if number else "host")
        return agent

    def lost(self, agent: Agent) -> dict[str, int]:
        """Events lost of this agent, by name, and what was lost of all agents."""
        lost = dict(agent.lost)
        if agent.number == HOST:
            return lost
        for name, number in self.agent(HOST).lost.items():
            lost[name] = lost.get(name, 0) + number
        return lost

    def count_unreadable(self) -> None:
        """Something could not be read. Whose it was cannot be read either: it is lost of all agents."""
        lost = self.agent(HOST).lost
        lost["unreadable"] = lost.get("unreadable", 0) + 1

    def apply(self, seq: int, row: Row) -> Change | None:
        """Fold one row; None where it says nothing on its own. Raises `DecodeError` for a bad row."""
        handler = self._handlers.get(row[TYPE])
        if handler is None:
            return None
        return handler(seq, row, self.agents.get(row[AGENT]) or self.agent(row[AGENT]))

    def name_of(self, address: str) -> str:
        """The name that a DNS answer gave for an address, or an empty string."""
        return self.names.get(address, "")

    def learn_name(self, address: str, name: str) -> None:
        """Remember what a DNS answer said."""
        self.names.pop(address, None)
        self.names[address] = name
        if len(self.names) > NAMES_KEPT:
            del self.names[next(iter(self.names))]

    def user_name(self, uid: int) -> str:
        return self.users.get(uid) or str(uid)

    def gpu_time(self, process: Process) -> int:
        """GPU time of a process and all below it that are remembered, in ns: see `GpuUse.busy`."""
        total = 0
        for key, busy in self.gpus.time_by_process().items():
            user = self.processes.known(key)
            if user is process or (user is not None and process in self.processes.ancestors(user)):
                total += busy
        return total

    def markers(self, process: Process) -> dict[str, str]:
        """The markers on what a process does, by name."""
        agent = self.agents.get(process.agent)
        return joined(agent.markers if agent else NO_MARKERS, process.markers)

    def _owner(self, row: Row, agent: Agent) -> Process:
        return self.processes.get(row[TGID], row[START], agent.number)

    def _plain(self, seq: int, row: Row, agent: Agent) -> Change:
        return Change(seq, row[TYPE], row[TIME], agent, self._owner(row, agent), None, decode.unpack(row))

    def _with_tail(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        change.data = decode.tail(row, change.fields[-1])
        return change

    def _fork(self, seq: int, row: Row, agent: Agent) -> Change:
        fields = decode.unpack(row)
        parent_start, _, parent = fields
        child = self.processes.fork(row, (parent, parent_start), agent.number)
        return Change(seq, row[TYPE], row[TIME], agent, child, None, fields)

    def _piece(self, seq: int, row: Row, agent: Agent) -> None:
        self.processes.piece(row)

    def _exec(self, seq: int, row: Row, agent: Agent) -> Change:
        process = self.processes.exec(row, seq, agent.number)
        return Change(seq, row[TYPE], row[TIME], agent, process, None, ())

    def _exit(self, seq: int, row: Row, agent: Agent) -> Change:
        process = self.processes.exit(row, agent.number)
        return Change(seq, row[TYPE], row[TIME], agent, process, None, (process.status,))

    def _process(self, seq: int, row: Row, agent: Agent) -> Change:
        process = self.processes.found(row, agent.number)
        return Change(seq, row[TYPE], row[TIME], agent, process, None, ())

    def _flow(self, row: Row, fields: tuple[Any, ...], agent: Agent) -> Flow:
        return self.flows.update(fields[:_BLOCK], (row[TGID], row[START]), agent.number, row[TIME])

    def _flow_owner(self, flow: Flow, agent: Agent) -> Process:
        return self.processes.known(flow.owner) or self.processes.get(*flow.owner, agent.number)

    def _socket_seen(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        cookie, family, socktype, protocol, local, local_port, remote, remote_port, _ = change.fields
        if family in (socket.AF_INET, socket.AF_INET6) and len(local) == len(remote) == _ADDRESS[family]:
            block = (cookie, local, remote, local_port, remote_port, family, socktype, protocol, 0)
            change.flow = self.flows.update(block, change.process.key, agent.number, row[TIME])
        return change

    def _socket(self, seq: int, row: Row, agent: Agent) -> Change:
        fields = decode.unpack(row)
        flow = self._flow(row, fields, agent)
        number = row[TYPE]
        if number in _CONNECTING:
            flow.initiated = True
            flow.domain = self.name_of(flow.remote)
        elif number == _ACCEPT:
            flow.initiated = False
        elif number == _CONNECTED:
            flow.initiated = True
            flow.error = fields[-1]
        return Change(seq, number, row[TIME], agent, self._flow_owner(flow, agent), flow, fields)

    def _close(self, seq: int, row: Row, agent: Agent) -> Change:
        fields = decode.unpack(row)
        flow = self._flow(row, fields, agent)
        bytes_out, bytes_in = fields[_BLOCK : _BLOCK + 2]
        self.flows.close(flow, bytes_out, bytes_in, row[TIME])
        return Change(seq, row[TYPE], row[TIME], agent, self._flow_owner(flow, agent), flow, fields)

    def _progress(self, seq: int, row: Row, agent: Agent) -> Change:
        fields = decode.unpack(row)
        flow = self._flow(row, fields, agent)
        flow.bytes_out, flow.bytes_in = fields[_BLOCK : _BLOCK + 2]
        return Change(seq, row[TYPE], row[TIME], agent, self._flow_owner(flow, agent), flow, fields)

    def _payload(self, seq: int, row: Row, agent: Agent) -> Change:
        fields = decode.unpack(row)
        flow = self._flow(row, fields, agent)
        data = decode.tail(row, fields[-1])
        if row[FLAGS] & _INCOMING:
            flow.bytes_in += fields[_BLOCK + 1]
            head = flow.head_in
        else:
            flow.bytes_out += fields[_BLOCK + 1]
            head = flow.head_out
        if head is not None and len(head) < HEAD_BYTES:
            self.flows.keep_head(flow, data, bool(row[FLAGS] & _INCOMING))
        return Change(
            seq,
            row[TYPE],
            row[TIME],
            agent,
            self._flow_owner(flow, agent),
            flow,
            fields,
            data,
            row[FLAGS],
        )

    def _file_access(self, seq: int, row: Row, agent: Agent) -> Change | None:
        use = self._file_names.use(row)
        if use is None:
            return None
        return Change(seq, row[TYPE], row[TIME], agent, self._owner(row, agent), None, (use,))

    def _privileged(self, seq: int, row: Row, agent: Agent) -> Change:
        """The fields, and after them the record's flags."""
        change = self._with_tail(seq, row, agent)
        change.fields = (*change.fields, row[FLAGS])
        return change

    def _file(self, seq: int, row: Row, agent: Agent) -> Change:
        path, content, _ = fields = decode.unpack(row)
        self.files[path] = content
        if len(self.files) > FILES_KEPT:
            del self.files[next(iter(self.files))]
        return Change(seq, row[TYPE], row[TIME], agent, self._owner(row, agent), None, fields)

    def _action(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        _, who, response, result, *_ = change.fields
        if result in DONE:
            agent.acted_by = who
            agent.state = _STATE_AFTER.get(response, agent.state)
        return change

    def _loss(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        number, lost, _ = change.fields
        # 0: of any type; they were seen, and are missing in a recording
        name = BY_NUMBER[number].name if number in BY_NUMBER else "unrecorded"
        agent.lost[name] = agent.lost.get(name, 0) + lost
        return change

    def _coverage(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        probe, error, cost = change.fields
        if error:
            self.coverage.append((probe, error, cost))
        else:
            self.coverage = [gap for gap in self.coverage if gap[0] != probe]
        return change

    def _agent(self, seq: int, row: Row, agent: Agent) -> Change:
        # A number is given to one agent after the other: what was known of it is another's.
        agent = self.agents[agent.number] = Agent(agent.number, seq)
        change = self._plain(seq, row, agent)
        agent.name, agent.cgroup, agent.cgroup_id, agent.mode = change.fields
        self.processes.train(agent.number, ())
        return change

    def _policy(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        _, agent.mode, _, agent.only, agent.without, _, _ = change.fields
        return change

    def _training(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        (paths,) = change.fields
        self.processes.train(agent.number, paths)
        return change

    def _rules(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        self.rules_digest, _ = change.fields
        return change

    def _gpu_device(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        self.gpus.appear(*change.fields)
        return change

    def _gpu_sample(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        self.gpus.sample(row[TIME], *change.fields)
        return change

    def _gpu_use(self, seq: int, row: Row, agent: Agent) -> Change | None:
        """Uses by processes that are no agent's say nothing."""
        process = self.processes.running(row[TGID], row[START])
        if process is None:
            return None
        fields = decode.unpack(row)
        agent = self.agent(process.agent)
        agent.gpu_time += self.gpus.use(row[TIME], process, *fields)
        return Change(seq, row[TYPE], row[TIME], agent, process, None, fields)

    def _gpu_gone(self, seq: int, row: Row, agent: Agent) -> Change:
        """The change's fields are the UUIDs of those that are gone by it, and the reason."""
        change = self._plain(seq, row, agent)
        uuid, reason = change.fields
        change.fields = (self.gpus.go(uuid, reason), reason)
        return change

    def _marker(self, seq: int, row: Row, agent: Agent) -> Change:
        change = self._plain(seq, row, agent)
        owner = change.process if row[TGID] else agent
        owner.markers = put(owner.markers, *change.fields)
        return change
