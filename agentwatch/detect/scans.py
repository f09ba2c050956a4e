"""Scans: many ports of one host, or one port of many hosts, that mostly do not answer.

After "Fast Portscan Detection Using Sequential Hypothesis Testing" (Jung, Paxson, Berger,
Balakrishnan, IEEE S&P 2004), turned round as for outgoing contacts (Schechter, Jung, Berger, RAID
2004): only the first contact with a target counts, a scanner's succeed with a probability of 0.2 and
honest ones with 0.8, so that each failure multiplies the odds by four and each success divides them.
A group of targets (the ports of one host, the hosts with one port) is told at odds of a million to
one, ten more failures than successes, and again whenever the odds' exponent has doubled.

What differs from the paper, because the watch stands at the source: a target that is tried again and
again is waited for, not scanned, and counts ever less; one that was reached and never spoken to counts
a little; an unanswered datagram says a twelfth of a refused connect, so that a traceroute (90 ports)
stays below. Own ports are looked for by honest programs, too: they need four times the odds.

All contacts of an agent go into one table, whichever of its processes made them: a scan may be one
process a port. Times are nanoseconds since boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agentwatch.detect.addresses import is_loopback
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.per_agent import PerAgent
from agentwatch.enrich.facts import behaviour_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, Type

WINDOW_NS: Final = 300_000_000_000
"""How long a first contact counts."""
TARGETS_KEPT: Final = 4096
"""Targets remembered of an agent; the one first contacted longest ago is let go first."""
SOCKETS_KEPT: Final = 4096
"""Sockets remembered of an agent while their connect waits; as many that send datagrams to many."""
PATIENCE_NS: Final = 3_000_000_000
"""A connect without an answer for so long counts as failed, until an answer comes."""

UNIT: Final = 12
"""Weight of a failure in the integers that are added up: the logarithm, to base 4, of its odds."""
TALKED: Final = -UNIT
EMPTY: Final = UNIT // 4
UNANSWERED: Final = UNIT // 12
TOLD_AT: Final = 10 * UNIT  # log4(1,000,000) = 9.97
TOLD_AT_LOOPBACK: Final = 4 * TOLD_AT
_ANSWER_BYTES: Final = 8
"""A datagram socket that got fewer bytes than this for each of its targets was mostly not answered."""

Facts = dict[str, Value]
_KINDS: Final = ("port_scan", "host_sweep")
_NOTHING: Final[list[Facts]] = []
_FEW: Final = 8  # connects that wait which are not worth a look: so few failures are told of nobody
_Place = tuple[str, str, int]  # transport, address, port


@dataclass(slots=True, eq=False)
class _Group:
    """Targets that have the host, or the port, in common. `next`: the score at which it is told."""

    next: int
    score: int = 0
    members: dict[_Place, _Target] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Target:
    place: _Place
    who: Key
    groups: tuple[_Group, _Group]
    first: int
    failures: int = 0
    weight: int = 0


class Scans:
    """The contacts of one agent. Each method returns what it newly shows, mostly nothing.

    `who` contacts `port` at `address` with the socket `cookie`. Who is always answered leaves no
    trace here: targets are remembered from the first failure on, their own or their neighbours'.
    """

    def __init__(self) -> None:
        self._targets: dict[_Place, _Target] = {}  # by first contact
        self._hosts: dict[tuple[str, str], _Group] = {}
        self._ports: dict[tuple[str, int], _Group] = {}
        self._waiting: dict[int, tuple[_Place, Key, int]] = {}  # TCP connects without a result, and when
        self._sent: dict[int, int] = {}  # datagram sockets: targets so far
        self._found: list[Facts] = []

    def connect(self, cookie: int, who: Key, address: str, port: int, time: int) -> list[Facts]:
        """A TCP socket begins to connect."""
        waiting = self._waiting
        if len(waiting) >= _FEW:
            self._lose_patience(time)
        earlier = waiting.pop(cookie, None)
        if earlier is not None:
            self._failed(earlier[0], earlier[1], time)
        waiting[cookie] = (("tcp", address, port), who, time)
        if len(waiting) > SOCKETS_KEPT:
            place, oldest, _ = waiting.pop(next(iter(waiting)))
            self._failed(place, oldest, time)
        return self._told() if self._found else _NOTHING

    def connected(
        self, cookie: int, who: Key, address: str, port: int, failed: bool, time: int
    ) -> list[Facts]:
        """Its result has come."""
        waited = self._waiting.pop(cookie, None)
        if failed:
            if waited is not None:  # otherwise patience was lost already
                self._failed(("tcp", address, port), who, time)
        elif ("tcp", address) in self._hosts or ("tcp", port) in self._ports:
            self._weigh(self._target(("tcp", address, port), who, time), TALKED, time)
        return self._told() if self._found else _NOTHING

    def closed(
        self, cookie: int, who: Key, address: str, port: int, reached: bool, sent: int, time: int
    ) -> list[Facts]:
        """A TCP socket ended that had `reached` its target, and had sent so many bytes there."""
        if self._waiting.pop(cookie, None) is not None:
            self._failed(("tcp", address, port), who, time)
        elif reached and not sent:
            target = self._target(("tcp", address, port), who, time)
            if target.weight <= 0:
                self._weigh(target, EMPTY, time)
        return self._told() if self._found else _NOTHING

    def send(self, cookie: int, who: Key, address: str, port: int, received: int, time: int) -> list[Facts]:
        """A datagram goes to another target than before; the socket has received so many bytes."""
        sent = self._sent.pop(cookie, 0) + 1
        self._sent[cookie] = sent
        if len(self._sent) > SOCKETS_KEPT:
            del self._sent[next(iter(self._sent))]
        if received < sent * _ANSWER_BYTES:
            self._weigh(self._target(("udp", address, port), who, time), UNANSWERED, time)
        return self._told() if self._found else _NOTHING

    def datagrams(
        self, cookie: int, who: Key, address: str, port: int, sent: int, received: int, time: int
    ) -> list[Facts]:
        """A connected datagram socket ended. The connect was no contact: it may only look at routes."""
        if self._sent.pop(cookie, None) is not None or not sent:
            return _NOTHING
        if not received:
            self._weigh(self._target(("udp", address, port), who, time), UNANSWERED, time)
        elif ("udp", address) in self._hosts or ("udp", port) in self._ports:
            self._weigh(self._target(("udp", address, port), who, time), TALKED, time)
        return self._told() if self._found else _NOTHING

    def _target(self, place: _Place, who: Key, time: int) -> _Target:
        target = self._targets.get(place)
        if target is None:
            self._forget(time)
            if len(self._targets) >= TARGETS_KEPT:
                self._drop(next(iter(self._targets.values())))
            groups = self._groups(place)
            target = self._targets[place] = _Target(place, who, groups, time)
            for group in groups:
                group.members[place] = target
        return target

    def _groups(self, place: _Place) -> tuple[_Group, _Group]:
        transport, address, port = place
        host = self._hosts.get((transport, address))
        if host is None:
            level = TOLD_AT_LOOPBACK if is_loopback(address) else TOLD_AT
            host = self._hosts[transport, address] = _Group(level)
        hosts = self._ports.get((transport, port))
        if hosts is None:
            hosts = self._ports[transport, port] = _Group(TOLD_AT)
        return host, hosts

    def _failed(self, place: _Place, who: Key, time: int) -> None:
        target = self._target(place, who, time)
        target.failures += 1
        self._weigh(target, max(1, UNIT // target.failures), time)

    def _weigh(self, target: _Target, weight: int, time: int) -> None:
        change = weight - target.weight
        if not change:
            return
        target.weight = weight
        for kind, group in zip(_KINDS, target.groups, strict=True):
            group.score += change
            if group.score >= group.next:
                group.next = 2 * group.score
                self._found.append(_facts(kind, group, time))

    def _lose_patience(self, time: int) -> None:
        while self._waiting:
            cookie, (place, who, begun) = next(iter(self._waiting.items()))
            if time - begun < PATIENCE_NS:
                return
            del self._waiting[cookie]
            self._failed(place, who, time)

    def _forget(self, time: int) -> None:
        while self._targets:
            target = next(iter(self._targets.values()))
            if time - target.first < WINDOW_NS:
                return
            self._drop(target)

    def _drop(self, target: _Target) -> None:
        transport, address, port = target.place
        del self._targets[target.place]
        for group in target.groups:
            group.score -= target.weight
            del group.members[target.place]
        host, hosts = target.groups
        if not host.members:
            del self._hosts[transport, address]
        if not hosts.members:
            del self._ports[transport, port]

    def _told(self) -> list[Facts]:
        found = self._found
        if found:
            self._found = []
        return found


def _facts(kind: str, group: _Group, time: int) -> Facts:
    """A group in the words of the rules; what was talked to is no part of a scan."""
    members = [target for target in group.members.values() if target.weight > 0]
    return {
        "Kind": kind,
        "Targets": len({target.place[1] for target in members}),
        "Ports": len({target.place[2] for target in members}),
        "Failed": sum(target.weight != EMPTY for target in members),
        "Processes": len({target.who for target in members}),
        "Span": max(0, time - min(target.first for target in members)) // 1_000_000_000,
        "Protocol": members[0].place[0],
    }


class ScanDetector:
    """Events of category `network_behaviour` with Kind port_scan and host_sweep."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._agents = PerAgent(Scans)
        self.handlers: dict[int, Handler] = {
            int(Type.CONNECT): self._connect,
            int(Type.CONNECTED): self._connected,
            int(Type.SEND): self._send,
            int(Type.CLOSE): self._close,
        }

    def _of(self, flow: Flow) -> Scans:
        return self._agents.of(self._state.agent(flow.agent))

    def _connect(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        if flow is None or flow.socktype != _STREAM:
            return NOTHING
        found = self._of(flow).connect(flow.cookie, flow.owner, flow.remote, flow.remote_port, change.time)
        return self._told(change, found) if found else NOTHING

    def _connected(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        if flow is None:
            return NOTHING
        found = self._of(flow).connected(
            flow.cookie, flow.owner, flow.remote, flow.remote_port, flow.error != 0, change.time
        )
        return self._told(change, found) if found else NOTHING

    def _send(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        if flow is None:
            return NOTHING
        found = self._of(flow).send(
            flow.cookie, flow.owner, flow.remote, flow.remote_port, flow.bytes_in, change.time
        )
        return self._told(change, found) if found else NOTHING

    def _close(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        if flow is None:
            return NOTHING
        cookie, who, address, port, time = (
            flow.cookie,
            flow.owner,
            flow.remote,
            flow.remote_port,
            change.time,
        )
        sent, received = change.fields[_BYTES_OUT], change.fields[_BYTES_OUT + 1]
        if flow.socktype == _STREAM:
            reached = flow.initiated is True and not flow.error
            found = self._of(flow).closed(cookie, who, address, port, reached, sent, time)
        elif flow.socktype == _DATAGRAM and port:
            found = self._of(flow).datagrams(cookie, who, address, port, sent, received, time)
        else:
            return NOTHING
        return self._told(change, found) if found else NOTHING

    def _told(self, change: Change, found: list[Facts]) -> Sequence[Sighting]:
        return [behaviour_sighting(self._state, "network_behaviour", change, one) for one in found]


_STREAM, _DATAGRAM = 1, 2  # SOCK_STREAM, SOCK_DGRAM
_BYTES_OUT = len(SOCKET_BLOCK)
