"""Shells at a distance: a shell whose standard input comes from who holds a connection.

A *link* is a TCP flow with the process that holds it and the programs whose standard input that
process made: the flow's own socket, a pipe, a pseudo terminal, a Unix socket. A link alone says
nothing: agents' harnesses hold connections and run shells all day. What is told as `reverse_shell`
(the holder connected) or `bind_shell` (it accepted), with the Stage that the proof allows:

- certain: a shell that takes orders has the socket itself as input and output; a pipeline leads
  from the connection through such a shell back to it (`nc ... <f | sh >f`); the holder's words
  join the port and the shell (`nc host port -e sh`); a command that runs is what came in on the
  flow, below a linked shell or with an answer; a shell's prompt goes out on the flow;
- likely: any other program has the socket as input and output, or is joined to the port by the
  holder's words; a pipeline leads through a shell from one host to another; a command that the
  holder runs is what came in; bytes in, a command below the shell, and bytes out follow each other
  ROUNDS times, the holder having no other connection.

What came in counts on flows in no known protocol; over HTTP it takes two orders. What is encrypted
is told by the first three. Behind an accepted connection in a known protocol (SSH, HTTP, TLS,
WebSocket) is a service for remote users.

All is bounded: LINKS_KEPT links, SHELLS_KEPT programs of each, HOLDERS_KEPT holders; the oldest goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Union

from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.pipes import Pipes
from agentwatch.detect.request import Requests
from agentwatch.detect.script_loops import ROUNDS as ROUNDS_OF_LOOP
from agentwatch.detect.script_loops import ScriptLoops
from agentwatch.detect.shell_words import (
    command_of,
    connects_to_program,
    is_interpreter,
    is_shell,
    takes_orders,
)
from agentwatch.detect.typed import RECENT_NS, Typed, is_prompt
from agentwatch.enrich.bounded import put
from agentwatch.enrich.facts import behaviour_sighting, flow_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process, Stream
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, PayloadFlag, StreamKind, Type

LINKS_KEPT: Final = 2048
HOLDERS_KEPT: Final = 1024
SHELLS_KEPT: Final = 16
WAITING_KEPT: Final = 64
ANSWER_NS: Final = 10_000_000_000
GENERATIONS: Final = 5
"""How far below a shell or a holder a command may run."""
ROUNDS: Final = 3

_STREAM = 1  # SOCK_STREAM
_PACKET_LENGTH = len(SOCKET_BLOCK) + 1
_INCOMING = int(PayloadFlag.IN)
_RANKS = {"": 0, "likely": 1, "certain": 2}
_INET = int(StreamKind.INET)
_VIA = {
    int(StreamKind.INET): "socket",
    int(StreamKind.PIPE): "pipe",
    int(StreamKind.FIFO): "pipe",
    int(StreamKind.UNIX): "unix",
    int(StreamKind.TERMINAL): "pty",
}
_MADE = frozenset((int(StreamKind.PIPE), int(StreamKind.UNIX), int(StreamKind.TERMINAL)))
_FIFO = int(StreamKind.FIFO)

_Program = Union[int, Key]


class _Link:
    """A flow, who holds it, and what hangs on it."""

    __slots__ = (
        "flow",
        "followed",
        "fresh",
        "heard",
        "holder",
        "ordered",
        "ordered_at",
        "ran",
        "rounds",
        "service",
        "shells",
        "stage",
        "typed",
    )

    def __init__(self, flow: Flow, holder: Process) -> None:
        self.flow = flow
        self.holder = holder
        self.shells: dict[Key, Process] = {}
        self.typed = Typed()
        self.stage = ""
        self.followed = False
        self.heard = 0  # when bytes came in last
        self.fresh = False  # nothing has run since
        self.ran = False  # something has, and was not answered yet
        self.rounds = 0
        self.ordered: Process | None = None  # what ran by order and was not answered yet
        self.ordered_at = 0
        self.service: bool | None = None  # what its first bytes are like; None until there are some

    @property
    def incoming(self) -> bool:
        """Whether the holder accepted it."""
        return self.flow.initiated is False


class _Holder:
    """A process that has connections: those open, how many there were, and the programs it feeds."""

    __slots__ = ("fed", "links", "made", "orders")

    def __init__(self) -> None:
        self.links: dict[int, _Link] = {}
        self.made = 0
        self.orders = 0  # that came over HTTP
        self.fed: dict[Key, Process] = {}


class Shells:
    """Events of category `flow` with Behaviour reverse_shell or bind_shell; and loops of remote scripts."""

    def __init__(self, state: State, requests: Requests) -> None:
        self._state = state
        self._requests = requests
        self._pipes = Pipes()
        self._loops = ScriptLoops()
        self._links: dict[int, _Link] = {}
        self._holders: dict[Key, _Holder] = {}
        self._ties: dict[_Program, dict[int, _Link]] = {}  # by who holds them and what hangs on them
        self._early: dict[Key, _Holder] = {}  # feed programs and have no connection yet
        self._waiting: dict[int, Process] = {}  # has a socket as input that is not known yet
        self.handlers: dict[int, Handler] = {
            int(Type.EXEC): self._exec,
            int(Type.CONNECTED): self._opened,
            int(Type.ACCEPT): self._opened,
            int(Type.SOCKET_SEEN): self._opened,
            int(Type.PAYLOAD): self._payload,
            int(Type.CLOSE): self._close,
        }

    # Processes

    def _exec(self, change: Change) -> Sequence[Sighting]:
        process = change.process
        if process.streams is None and not self._ties and not self._loops.waiting:
            return NOTHING
        found: list[Sighting] = []
        if self._ties:
            found += self._order(change, process)
        if process.streams is not None:
            self._pipes.ran(process)
            found += self._direct(change, process)
            found += self._fed(change, process, process.streams[0])
            found += self._pipelines(change, process)
        if self._loops.waiting:
            found += self._looped(change, process)
        return found

    def _looped(self, change: Change, process: Process) -> list[Sighting]:
        """Whether a shell that a network client feeds does something, once more."""
        shell = self._state.processes.parent(process)
        flow = (
            self._loops.works(shell.key, self._state.processes.above(shell, GENERATIONS))
            if shell is not None
            else None
        )
        if shell is None or flow is None:
            return []
        about = change.about(shell, flow)
        found: dict[str, Value] = {"Kind": "remote_script_loop", "Rounds": ROUNDS_OF_LOOP}
        return [behaviour_sighting(self._state, "process_behaviour", about, found)]

    # The socket itself

    def _direct(self, change: Change, process: Process) -> list[Sighting]:
        assert process.streams is not None
        for stream in process.streams:
            if stream.kind == _INET and stream.identity:
                link = self._links.get(stream.identity) or self._datagrams(stream.identity)
                if link is not None:
                    return self._on_socket(change, link, process)
                put(self._waiting, stream.identity, process, WAITING_KEPT)
        return []

    def _datagrams(self, cookie: int) -> _Link | None:
        """A link over UDP: made where a program has such a socket (`bash -i >& /dev/udp/...`)."""
        flow = self._state.flows.known(cookie)
        if flow is None or flow.transport != "udp" or not flow.initiated:
            return None
        link = _Link(flow, self._state.processes.get(*flow.owner, flow.agent))
        self._keep(link)
        return link

    def _keep(self, link: _Link) -> None:
        for gone in put(self._links, link.flow.cookie, link, LINKS_KEPT):
            self._forget(gone)
        self._tie(link, link.holder)

    def _on_socket(self, change: Change, link: _Link, process: Process) -> list[Sighting]:
        """A program has the link's socket among its standard streams."""
        streams = process.streams
        socket = Stream(_INET, link.flow.cookie)
        if streams is None or streams[0] != socket:
            return []
        self._hang(link, process)
        if socket not in streams[1:]:
            return []
        if _is_shell_at_work(process):
            return self._tell(change, link, process, "certain", "socket")
        above = self._state.processes.parent(process)
        if above is not None and _program(above) == _program(link.holder) and is_shell(above.exe, above.argv):
            # `exec 0<>/dev/tcp/... 1>&0` in a shell that goes on: its children show it
            stage = "certain" if takes_orders(above.exe, above.argv) else "likely"
            return self._tell(change, link, above, stage, "socket")
        return [] if link.incoming else self._tell(change, link, process, "likely", "socket")

    # Pipes, terminals and Unix sockets that the holder made

    def _fed(self, change: Change, process: Process, stdin: Stream) -> list[Sighting]:
        """A program runs with an input that its parent made: what the parent holds may come in there."""
        parent = self._state.processes.parent(process)
        if stdin.kind not in _MADE or parent is None:
            return []
        if parent.streams is not None and stdin in parent.streams:
            return []  # its parent's own
        found = []
        for one in self._state.processes.lineage(parent):
            holder = self._holders.get(one.key)
            if holder is not None:
                put(holder.fed, process.key, process, SHELLS_KEPT)
                for link in list(holder.links.values()):
                    found += self._link(change, link, process)
        if parent.streams is not None:
            above = parent.streams[0]
            on_socket = self._links.get(above.identity) if above.kind == _INET else None
            if on_socket is not None:
                found += self._link(change, on_socket, process)
        if parent.key not in self._holders:
            early = self._early.pop(parent.key, None) or _Holder()
            put(early.fed, process.key, process, SHELLS_KEPT)
            put(self._early, parent.key, early, HOLDERS_KEPT)
        return found

    def _link(self, change: Change, link: _Link, process: Process) -> list[Sighting]:
        self._hang(link, process)
        flow = link.flow
        program = process.argv[0] if process.argv else process.exe
        port = flow.local_port if link.incoming else flow.remote_port
        if not connects_to_program(link.holder.argv, program, port):
            return []
        if _is_shell_at_work(process):
            return self._tell(change, link, process, "certain", _via(process))
        return [] if link.incoming else self._tell(change, link, process, "likely", _via(process))

    def _hang(self, link: _Link, process: Process) -> None:
        for gone in put(link.shells, process.key, process, SHELLS_KEPT):
            self._untie(link, gone)
        self._tie(link, process)
        if not link.flow.application:
            self._follow(link)

    def _follow(self, link: _Link) -> None:
        """Have the flow's later messages reported as well."""
        if not link.followed:
            link.followed = True
            self._requests.follow(link.flow.cookie)

    # Pipelines

    def _pipelines(self, change: Change, process: Process) -> list[Sighting]:
        """Whether this program closes a circle of pipes around a shell."""
        if process.streams is None or not any(_is_pipe(stream) for stream in process.streams):
            return []
        near = self._around(process)
        for client in near:
            link = self._connection(client)
            if link is None:
                continue
            for shell in self._pipes.readers(client):
                if _is_shell_at_work(shell):
                    self._loops.fed(shell, client, link.flow)
        return [
            event
            for shell in near
            if _is_shell_at_work(shell) and shell.streams is not None and _is_pipe(shell.streams[0])
            for event in self._circle(change, shell)
        ]

    def _around(self, process: Process) -> list[Process]:
        near = [process]
        for neighbours in (self._pipes.readers, self._pipes.writers):
            for one in neighbours(process):
                near += [one, *neighbours(one)]
        return near

    def _circle(self, change: Change, shell: Process) -> list[Sighting]:
        drains = [far for near in self._pipes.readers(shell) for far in (near, *self._pipes.readers(near))]
        out = next((link for one in drains if (link := self._connection(one)) is not None), None)
        if out is None:
            return []
        feeders = [far for near in self._pipes.writers(shell) for far in (near, *self._pipes.writers(near))]
        sources = [link.flow.remote for one in feeders if (link := self._connection(one)) is not None]
        named = any(one.streams is not None and one.streams[1].kind == _FIFO for one in drains)
        if not sources and not named:
            return []
        circle = named or out.flow.remote in sources
        return self._tell(change, out, shell, "certain" if circle else "likely", "pipeline")

    def _connection(self, process: Process) -> _Link | None:
        """The latest connection that a program holds."""
        for one in self._state.processes.lineage(process):
            holder = self._holders.get(one.key)
            if holder is not None and holder.links:
                return next(reversed(holder.links.values()))
        return None

    # Flows

    def _opened(self, change: Change) -> Sequence[Sighting]:
        flow, process = change.flow, change.process
        if flow is None or flow.socktype != _STREAM or not flow.remote_port or not process.pid or flow.error:
            return NOTHING
        if flow.cookie in self._links:
            return NOTHING
        link = _Link(flow, process)
        self._keep(link)
        holder = self._holders.pop(process.key, None) or self._early.pop(process.key, None) or _Holder()
        put(self._holders, process.key, holder, HOLDERS_KEPT)
        holder.made += 1
        put(holder.links, flow.cookie, link, LINKS_KEPT)
        found: list[Sighting] = []
        if holder.fed:
            for fed in list(holder.fed.values()):
                if not fed.ended:
                    found += self._link(change, link, fed)
        waiting = self._waiting.pop(flow.cookie, None)
        if waiting is not None:
            found += self._on_socket(change, link, waiting)
        return found + self._pipelines(change, process) if process.streams is not None else found

    def _close(self, change: Change) -> Sequence[Sighting]:
        link = self._links.pop(change.flow.cookie, None) if change.flow is not None else None
        if link is not None:
            self._forget(link)
        return NOTHING

    def _forget(self, link: _Link) -> None:
        self._untie(link, link.holder)
        for process in link.shells.values():
            self._untie(link, process)
        holder = self._holders.get(link.holder.key)
        if holder is not None:
            holder.links.pop(link.flow.cookie, None)

    def _tie(self, link: _Link, process: Process) -> None:
        program = _program(process)
        ties = self._ties.get(program)
        if ties is None:
            ties = self._ties[program] = {}
        ties[link.flow.cookie] = link

    def _untie(self, link: _Link, process: Process) -> None:
        program = _program(process)
        ties = self._ties.get(program)
        if ties is not None:
            ties.pop(link.flow.cookie, None)
            if not ties:
                del self._ties[program]

    def _payload(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        if flow is None or (flow.application and flow.application != "http"):
            return NOTHING
        link = self._links.get(flow.cookie)
        if link is None:
            return NOTHING
        incoming = change.payload_flags & _INCOMING != 0
        data = change.data
        if link.service is None:
            link.service = _is_service(data, incoming)
        if not incoming:
            # Nothing that runs can be answered where nothing hangs on the link and nothing was ordered.
            return self._answer(change, link) if link.shells or link.ordered_at else NOTHING
        link.heard, link.fresh = change.time, True
        link.typed.receive(data, len(data) >= change.fields[_PACKET_LENGTH], change.time)
        return NOTHING

    # What came in, what ran, what went out

    def _order(self, change: Change, process: Process) -> list[Sighting]:
        """Whether a program runs because of what came in shortly before."""
        above = self._state.processes.above(process, GENERATIONS)
        found = []
        for place, one in enumerate(above):
            for link in tuple(self._ties.get(_program(one), {}).values()):
                if change.time - link.heard > RECENT_NS or not link.heard:
                    continue
                shell = next((lower for lower in above[: place + 1] if lower.key in link.shells), None)
                if shell is not None:
                    found += self._below_shell(change, link, shell, process)
                elif _program(one) == _program(link.holder):
                    found += self._below_holder(change, link, process)
        return found

    def _below_shell(self, change: Change, link: _Link, shell: Process, process: Process) -> list[Sighting]:
        if link.flow.application or link.service:
            return []
        typed, obeys = link.typed, takes_orders(shell.exe, shell.argv)
        if typed.is_order(_commands(process), change.time) or (
            obeys and typed.mentions(process.argv, change.time)
        ):
            return self._tell(change, link, shell, "certain", _via(shell))
        if link.fresh and obeys:
            link.fresh, link.ran = False, True
            link.ordered = shell
        return []

    def _below_holder(self, change: Change, link: _Link, process: Process) -> list[Sighting]:
        if not link.typed.is_order(_commands(process), change.time):
            return []
        link.ordered, link.ordered_at = process, change.time
        self._follow(link)
        holder = self._holders.get(link.holder.key)
        if link.flow.application and holder is not None:
            holder.orders += 1
            if holder.orders < 2:
                return []
        return self._tell(change, link, process, "likely", _via(process))

    def _answer(self, change: Change, link: _Link) -> list[Sighting]:
        """Bytes go out."""
        process = link.ordered
        if link.stage == "likely" and link.ordered_at and change.time - link.ordered_at <= ANSWER_NS:
            return self._tell(change, link, process, "certain", _via(process)) if process is not None else []
        if link.flow.application or not link.shells:
            return []
        if is_prompt(change.data):
            alive = [one for one in link.shells.values() if not one.ended]
            shell = next((one for one in reversed(alive) if takes_orders(one.exe, one.argv)), None)
            return self._tell(change, link, shell, "certain", _via(shell)) if shell is not None else []
        if not link.ran or process is None:
            return []
        link.ran = False
        holder = self._holders.get(link.holder.key)
        if link.service or holder is None or holder.made > 1:
            return []
        link.rounds += 1
        return self._tell(change, link, process, "likely", _via(process)) if link.rounds >= ROUNDS else []

    def _tell(self, change: Change, link: _Link, shell: Process, stage: str, via: str) -> list[Sighting]:
        """The event, unless as much was told of this flow."""
        flow = link.flow
        if flow.initiated is None:
            stage = "likely"  # found open: nobody saw which side connected
        if link.incoming and flow.application:
            return []  # ssh, http, tls, websocket: a service for remote users
        if _RANKS[stage] <= _RANKS[link.stage]:
            return []
        link.stage = stage
        found: dict[str, Value] = {
            "Behaviour": "bind_shell" if link.incoming else "reverse_shell",
            "Stage": stage,
            "Via": via,
            "HolderImage": link.holder.exe,
        }
        if flow.application:
            found["Protocol"] = flow.application
        return [flow_sighting(self._state, change.about(shell, flow), found)]


def _is_shell_at_work(process: Process) -> bool:
    """Whether a program is a shell, or what could be one, that does what its input says."""
    exe, argv = process.exe, process.argv
    known = is_shell(exe, argv) or is_interpreter(exe) or "-i" in argv
    return known and not process.ended and takes_orders(exe, argv)


def _commands(process: Process) -> tuple[str, ...]:
    """What a program was told to do: its words, or the command that a shell got."""
    command = command_of(process.exe, process.argv)
    return (process.command_line,) if command is None else (command,)


def _program(process: Process) -> _Program:
    """What a process and those forked from it have in common: the exec, or the process found running."""
    return process.exec_seq or process.key


def _is_pipe(stream: Stream) -> bool:
    return _VIA.get(stream.kind) == "pipe"


def _via(process: Process) -> str:
    """What a program's input is, or its output where the input leads nowhere."""
    streams = process.streams or ()
    return next((_VIA[stream.kind] for stream in streams if stream.kind in _VIA), "pipe")


def _is_service(data: bytes, incoming: bool) -> bool:
    """Whether the first bytes are those of a common service: Redis, AMQP, ZeroMQ, NATS, MySQL, PostgreSQL."""
    if incoming:
        return data.startswith(b"INFO {") or data[3:5] == b"\0\n"
    return (
        data.startswith((b"*", b"AMQP", b"\xff\0\0\0\0\0\0\0", b"CONNECT {", b"INFO {"))
        or data[4:8] in (b"\0\3\0\0", b"\x04\xd2\x16\x2f")
    )  # fmt: skip
