"""Much data sent out of the network: by destination, over the life of an agent.

Volume and direction say nothing about right and wrong: a checkpoint goes to its bucket the same way
as a stolen model. So the facts are told, by steps of magnitude, and rules decide by destination,
protocol and program. The steps: what a person's secrets and sources weigh (10 MB), a data set
or an adapter (100 MB), a model (1 GB), a training's checkpoints (10 GB).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from agentwatch.detect.addresses import is_inside
from agentwatch.detect.dns_tunnel import registered_domain
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.enrich.facts import behaviour_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, Type

DESTINATIONS_KEPT: Final = 4096
"""Destinations remembered over all agents; the one that got nothing for longest is let go first."""
FLOWS_KEPT: Final = 8192
"""Open flows whose totals are remembered; the one silent for longest is let go, and counts again."""
LEAST: Final = 4096
"""Bytes sent on a flow from which on it counts."""
RATIO: Final = 4
"""Bytes out for each byte in from which on a destination is sent to, not talked to."""
MAGNITUDES: Final = ((10**10, "huge"), (10**9, "large"), (10**8, "medium"), (10**7, "small"))

_BYTES_OUT = len(SOCKET_BLOCK)
_CLOSE = int(Type.CLOSE)


@dataclass(slots=True)
class _Sums:
    sent: int = 0
    received: int = 0
    told: str = ""


class Volumes:
    """Bytes by destination. `flow` takes a flow's totals so far; flows of one destination add up."""

    def __init__(self) -> None:
        self._destinations: dict[tuple[Hashable, str], _Sums] = {}
        self._flows: dict[int, tuple[int, int]] = {}

    def flow(
        self, cookie: int, agent: Hashable, destination: str, sent: int, received: int, *, ended: bool
    ) -> dict[str, Value] | None:
        """What the destination has got and given, where that reaches a further magnitude."""
        before = self._flows.pop(cookie, (0, 0))
        if not ended:
            self._flows[cookie] = (sent, received)
            if len(self._flows) > FLOWS_KEPT:
                del self._flows[next(iter(self._flows))]
        key = (agent, destination)
        sums = self._destinations.pop(key, None) or _Sums()
        self._destinations[key] = sums  # to the end: the order is that of the last bytes
        if len(self._destinations) > DESTINATIONS_KEPT:
            del self._destinations[next(iter(self._destinations))]
        sums.sent += max(0, sent - before[0])
        sums.received += max(0, received - before[1])
        magnitude = _magnitude(sums.sent)
        if magnitude == sums.told or sums.sent < RATIO * sums.received:
            return None
        sums.told = magnitude
        return {
            "Kind": "exfiltration",
            "Magnitude": magnitude,
            "BytesOut": sums.sent,
            "BytesIn": sums.received,
            "Ratio": round(sums.sent / max(sums.received, 1), 1),
        }


def _magnitude(size: int) -> str:
    return next((name for least, name in MAGNITUDES if size >= least), "")


class Exfiltration:
    """Events of category `network_behaviour` with Kind exfiltration, for destinations outside."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._volumes = Volumes()
        self.handlers: dict[int, Handler] = dict.fromkeys((int(Type.FLOW_PROGRESS), _CLOSE), self._totals)

    def _totals(self, change: Change) -> Sequence[Sighting]:
        """What the totals of this flow make of its destination."""
        flow = change.flow
        sent = change.fields[_BYTES_OUT]
        if sent < LEAST or flow is None or not flow.remote or is_inside(flow.remote):
            return NOTHING
        received = change.fields[_BYTES_OUT + 1]
        agent = self._state.agent(flow.agent).key
        found = self._volumes.flow(
            flow.cookie, agent, _destination(flow), sent, received, ended=change.type == _CLOSE
        )
        if found is None:
            return NOTHING
        found["Protocol"] = flow.application or flow.transport
        return (behaviour_sighting(self._state, "network_behaviour", change, found),)


def _destination(flow: Flow) -> str:
    """A service has many addresses and host names; its registered domain, where known, is one."""
    return registered_domain(flow.domain) if flow.domain else flow.remote
