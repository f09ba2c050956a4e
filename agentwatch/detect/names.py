"""DNS: questions and answers of agents, which name an address was asked for by, and tunnels in names."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache

from agentwatch.detect import dns
from agentwatch.detect.dns_tunnel import DnsTunnels
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.per_agent import PerAgent
from agentwatch.enrich.facts import behaviour_sighting, sighting
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, PayloadFlag, Type

_UDP = 17
_DNS = int(PayloadFlag.DNS)
_LOCAL_NAMES = frozenset((137, 5353, 5355))  # NetBIOS, multicast DNS, LLMNR: names of neighbours
_PACKET_LENGTH = len(SOCKET_BLOCK) + 1


class Names:
    """Events of category `dns_query`; answers are remembered, so that later connects have a name.

    Data carried in names is an event of category `network_behaviour`, Kind dns_tunnel.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._tunnels = PerAgent(DnsTunnels)
        self.handlers: dict[int, Handler] = {int(Type.PAYLOAD): self._payload}

    def _payload(self, change: Change) -> Sequence[Sighting]:
        """A question or an answer, where the change is a DNS datagram."""
        if not change.payload_flags & _DNS and not _on_another_port(change):
            return NOTHING
        message = dns.parse(change.data)
        if message is None or not message.questions:
            return NOTHING
        query = told(self._state, change, message.fields)
        tunnels = self._tunnels.of(change.agent)
        found = tunnels.message(message, change.fields[_PACKET_LENGTH], change.time)
        if found is None:
            return (query,)
        return (query, behaviour_sighting(self._state, "network_behaviour", change, found))


def _on_another_port(change: Change) -> bool:
    """Whether a datagram of another port than 53 is DNS: a question, or what comes back on its flow."""
    flow = change.flow
    if flow is None or flow.protocol != _UDP:
        return False
    if not dns.is_question(change.data):
        return flow.application == "dns" and change.data[2:3] >= b"\x80"
    if flow.local_port in _LOCAL_NAMES or flow.remote_port in _LOCAL_NAMES:
        return False
    flow.application = flow.application or "dns"
    return True


def told(state: State, change: Change, fields: Mapping[str, Value]) -> Sighting:
    """The event of a DNS message (see `DnsMessage.fields`); what it answers is remembered."""
    own = {name: fields.get(name) for name in dns.FIELDS}
    results = own["QueryResults"]
    if isinstance(results, tuple) and own["QueryStatus"] is not None and own["QueryType"] != "TXT":
        name = own["QueryName"]
        for value in results:
            if isinstance(name, str) and _is_address(str(value)):
                state.learn_name(str(value), name)
    return sighting(state, "dns_query", change, own)


@lru_cache(maxsize=1024)  # the same names are asked for again and again
def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True
