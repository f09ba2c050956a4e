"""Relays: a process connects outwards, connects inwards as well, and hands over what comes in.

A tunnel from outside needs no listener here: a process connects to a host outside, connects to a
port of this machine or its network (or to a Unix socket), and copies both ways. Servers and
forwarding proxies accept on one side; clients of two services speak for themselves on both. What
tells a relay is that the bytes are handed over, seen in one of these ways:

- `shape`: the first bytes on one of the two connections are those that came in on the other; or
  what comes in on an outbound connection is a request (HTTP or TLS spoken by the peer as the
  client) and the process connects to a Unix socket;
- `moving`: bytes were handed over in both directions, word for word; or, where the outer
  connection is encrypted, message for message with an overhead that stays the same (SPREAD) over
  SIZES messages of different lengths in each direction.

`Correlation` is the share of the bytes on both connections that were handed over, in percent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeVar

from agentwatch.detect.addresses import is_inside, is_loopback
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.request import Requests
from agentwatch.enrich.facts import flow_sighting, unix_path
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, PayloadFlag, Type

PARTIES_KEPT: Final = 1024
LEGS_KEPT: Final = 32
"""Connections of one program that are compared, the latest."""
HELD_KEPT: Final = 4
"""Messages of one connection that may yet be handed over."""
HANDED_NS: Final = 1_000_000_000
"""How long a relay may hold a message."""
WORDS: Final = 8
"""Bytes at the least that must be alike."""
OVERHEAD: Final = 512
"""Bytes at the most that encryption and framing add to a message."""
SPREAD: Final = 16
SIZES: Final = 3
LOOKED_AT: Final = 64
"""Messages of an encrypted connection that are asked for before it is let go."""

_T = TypeVar("_T")
_STREAM = 1  # SOCK_STREAM
_PACKET_LENGTH, _MESSAGE = len(SOCKET_BLOCK) + 1, len(SOCKET_BLOCK) + 2
_INCOMING: Final = int(PayloadFlag.IN)
_ENCRYPTED: Final = frozenset(("tls", "websocket"))
_REQUEST: Final = re.compile(
    rb"(?:GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|CONNECT) \S+ HTTP/1|\x16\x03[\0-\4]..\x01"
)
_COMMON_SOCKETS: Final = (
    "/run/nscd/",
    "/var/run/nscd/",
    "/dev/log",
    "/run/systemd/",
    "/run/dbus/",
    "/tmp/.X11-unix/",
)


class _Message:
    """What came in: when, how much, and its first bytes."""

    __slots__ = ("head", "length", "time")

    def __init__(self, time: int, length: int, head: bytes) -> None:
        self.time = time
        self.length = length
        self.head = head


class _Leg:
    """One outbound connection of a program, in the order of their making (`number`)."""

    __slots__ = ("asked", "flow", "held", "inner", "looked_at", "number", "party", "requested", "sent")

    def __init__(self, flow: Flow, party: _Party, number: int) -> None:
        self.flow = flow
        self.party = party
        self.number = number
        self.inner = is_inside(flow.remote)
        self.held: list[_Message] = []  # the last HELD_KEPT that came in
        self.sent: list[bytes] = []  # and that went out
        self.requested = False  # what came in first was a request
        self.asked = False  # its traffic is reported further
        self.looked_at = 0


class _Pair:
    """What was handed over between an outer and an inner connection."""

    __slots__ = ("bytes", "inwards", "outwards", "sizes_in", "sizes_out", "stage")

    def __init__(self) -> None:
        self.stage = ""
        self.inwards = 0  # messages
        self.outwards = 0
        self.bytes = 0
        self.sizes_in: list[tuple[int, int]] = []  # (length, overhead)
        self.sizes_out: list[tuple[int, int]] = []


class _Party:
    """A program's connections."""

    __slots__ = ("accepts", "legs", "made", "pairs", "process", "unix")

    def __init__(self, process: Process) -> None:
        self.process = process
        self.legs: dict[int, _Leg] = {}
        self.pairs: dict[tuple[int, int], _Pair] = {}
        self.made = 0
        self.accepts = False
        self.unix: tuple[int, str] | None = None  # when it connected to a Unix socket last, and to which


class Relays:
    """Events of category `flow` with Behaviour relay; the flow is the outer one."""

    def __init__(self, state: State, requests: Requests) -> None:
        self._state = state
        self._requests = requests
        self._parties: dict[Key, _Party] = {}
        self._legs: dict[int, _Leg] = {}
        self.handlers: dict[int, Handler] = {
            int(Type.CONNECTED): self._connected,
            int(Type.ACCEPT): self._accepted,
            int(Type.PAYLOAD): self._payload,
            int(Type.CLOSE): self._closed,
            int(Type.UNIX_CONNECT): self._unix,
        }

    def _party(self, process: Process) -> _Party:
        """That of the program: processes forked from it share its connections."""
        origin = self._state.processes.origin(process)
        party = self._parties.pop(origin.key, None) or _Party(origin)
        self._parties[origin.key] = party
        if len(self._parties) > PARTIES_KEPT:
            gone = self._parties.pop(next(iter(self._parties)))
            for cookie in gone.legs:
                self._legs.pop(cookie, None)
        return party

    def _connected(self, change: Change) -> Sequence[Sighting]:
        flow = change.flow
        if flow is None or flow.socktype != _STREAM or flow.error or not change.process.pid:
            return NOTHING
        party = self._party(change.process)
        party.made += 1
        leg = self._legs[flow.cookie] = _Leg(flow, party, party.made)
        legs = party.legs
        legs[flow.cookie] = leg
        if len(legs) > LEGS_KEPT:
            self._drop(party, next(iter(legs)))
        if leg.inner:
            for other in legs.values():
                self._look_at(other)
        return NOTHING

    def _look_at(self, leg: _Leg) -> None:
        """Have an encrypted connection reported beside an inner one, for a while."""
        if leg.flow.application in _ENCRYPTED and not leg.asked and not leg.party.accepts:
            leg.asked = True
            self._requests.follow(leg.flow.cookie)

    def _accepted(self, change: Change) -> Sequence[Sighting]:
        self._party(change.process).accepts = True
        return NOTHING

    def _closed(self, change: Change) -> Sequence[Sighting]:
        leg = self._legs.get(change.flow.cookie) if change.flow is not None else None
        if leg is not None:
            self._drop(leg.party, leg.flow.cookie)
        return NOTHING

    def _drop(self, party: _Party, cookie: int) -> None:
        self._legs.pop(cookie, None)
        party.legs.pop(cookie, None)
        if party.pairs:
            for pair in [pair for pair in party.pairs if cookie in pair]:
                del party.pairs[pair]

    def _payload(self, change: Change) -> Sequence[Sighting]:
        leg = self._legs.get(change.flow.cookie) if change.flow is not None else None
        if leg is None:
            return NOTHING
        if leg.asked:
            leg.looked_at += 1
            if leg.looked_at == LOOKED_AT:
                self._requests.unfollow(leg.flow.cookie)
        if change.payload_flags & _INCOMING:
            _hold(leg.held, _Message(change.time, change.fields[_PACKET_LENGTH], change.data))
            return self._requested(change, leg) if change.fields[_MESSAGE] == 1 else NOTHING
        _hold(leg.sent, change.data)
        legs = leg.party.legs
        if len(legs) < 2:
            return NOTHING
        found: list[Sighting] = []
        for other in list(legs.values()):
            if other is not leg and other.held and (other.inner or leg.inner) and _apart(other, leg):
                found += self._sent(change, other, leg)
        return found

    def _sent(self, change: Change, source: _Leg, target: _Leg) -> list[Sighting]:
        """Whether what goes out on one connection came in on another."""
        outer, inner = _oriented(source, target)
        key = outer.flow.cookie, inner.flow.cookie
        length = change.fields[_PACKET_LENGTH]
        recent = [one for one in source.held if change.time - one.time <= HANDED_NS]
        # Where both sides of a protocol say the same (greetings, acknowledgements), so did this one there.
        common = change.data in source.sent
        same = next((one for one in recent if not common and _alike(one.head, change.data)), None)
        if same is not None:
            source.held.remove(same)
            pair = outer.party.pairs.setdefault(key, _Pair())
            pair.inwards += target is inner
            pair.outwards += target is outer
            pair.bytes += max(same.length, length)
            first = change.fields[_MESSAGE] == 1
            stage = "moving" if pair.inwards and pair.outwards else "shape" if first else ""
            return self._tell(change, outer, inner, pair, stage)
        if outer.flow.application not in _ENCRYPTED or outer.party.accepts or not recent:
            return []
        pair = outer.party.pairs.setdefault(key, _Pair())
        return self._measured(change, (outer, inner), pair, recent[-1].length, length, target is inner)

    def _measured(
        self, change: Change, legs: tuple[_Leg, _Leg], pair: _Pair, came: int, went: int, inwards: bool
    ) -> list[Sighting]:
        """Compares lengths where bytes cannot be: on an encrypted connection messages are longer."""
        inner_length, overhead = (went, came - went) if inwards else (came, went - came)
        sizes = pair.sizes_in if inwards else pair.sizes_out
        if not 0 <= overhead <= OVERHEAD:
            sizes.clear()
            return []
        sizes.append((inner_length, overhead))
        del sizes[:-HELD_KEPT]
        pair.bytes += inner_length
        steady = _is_steady(pair.sizes_in) and _is_steady(pair.sizes_out)
        return self._tell(change, *legs, pair, "moving") if steady else []

    def _requested(self, change: Change, leg: _Leg) -> list[Sighting]:
        """Whether the peer of an outbound connection asks first, and a Unix socket is there to answer."""
        if not is_loopback(leg.flow.remote) and _REQUEST.match(change.data):
            leg.requested = True
            return self._to_unix(change, leg)
        return []

    def _unix(self, change: Change) -> list[Sighting]:
        path = unix_path(change.data)
        if path.startswith(_COMMON_SOCKETS) or not path:
            return []
        origin = self._state.processes.origin(change.process)
        party = self._parties.get(origin.key)
        if party is None:
            return []
        party.unix = change.time, path
        return [event for leg in list(party.legs.values()) for event in self._to_unix(change, leg)]

    def _to_unix(self, change: Change, leg: _Leg) -> list[Sighting]:
        unix = leg.party.unix
        if not leg.requested or unix is None or change.time - unix[0] > 10 * HANDED_NS:
            return []
        pair = leg.party.pairs.setdefault((leg.flow.cookie, 0), _Pair())
        if pair.stage:
            return []
        pair.stage = "shape"
        return [self._event(change, leg, {"Stage": "shape", "LocalTarget": unix[1]})]

    def _tell(self, change: Change, outer: _Leg, inner: _Leg, pair: _Pair, stage: str) -> list[Sighting]:
        if not stage or pair.stage in (stage, "moving"):
            return []
        pair.stage = stage
        flow = inner.flow
        total = max(1, outer.flow.bytes_in + outer.flow.bytes_out, flow.bytes_in + flow.bytes_out)
        target = f"[{flow.remote}]" if ":" in flow.remote else flow.remote
        found: dict[str, Value] = {
            "Stage": stage,
            "LocalTarget": f"{target}:{flow.remote_port}",
            "Correlation": min(100, 100 * pair.bytes // total),
        }
        return [self._event(change, outer, found)]

    def _event(self, change: Change, outer: _Leg, found: dict[str, Value]) -> Sighting:
        if outer.flow.application:
            found["Protocol"] = outer.flow.application
        about = change.about(self._owner(outer.flow), outer.flow)
        return flow_sighting(self._state, about, {"Behaviour": "relay", **found})

    def _owner(self, flow: Flow) -> Process:
        return self._state.processes.get(*flow.owner, flow.agent)


def _hold(held: list[_T], one: _T) -> None:
    """Add to what is held; a short list is made sooner than a deque, and few connections hold anything."""
    held.append(one)
    if len(held) > HELD_KEPT:
        del held[0]


def _apart(one: _Leg, other: _Leg) -> bool:
    """Whether two connections lead to different hosts, one of them not to this machine."""
    remotes = one.flow.remote, other.flow.remote
    return remotes[0] != remotes[1] and not all(map(is_loopback, remotes))


def _oriented(one: _Leg, other: _Leg) -> tuple[_Leg, _Leg]:
    """The outer connection and the inner one: loopback, or inside, or made later."""
    inmost = sorted((one, other), key=lambda leg: (is_loopback(leg.flow.remote), leg.inner, leg.number))
    return inmost[0], inmost[1]


def _alike(came: bytes, went: bytes) -> bool:
    """Whether the beginnings of two messages are the same, as far as both were recorded."""
    length = min(len(came), len(went))
    return length >= WORDS and came[:length] == went[:length]


def _is_steady(sizes: list[tuple[int, int]]) -> bool:
    overheads = [overhead for _, overhead in sizes]
    different = len({length for length, _ in sizes})
    return different >= SIZES and max(overheads) - min(overheads) <= SPREAD
