"""DNS: questions and answers of agents, which name an address was asked for by, and tunnels in names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from agentwatch.detect import dns
from agentwatch.detect.dns_tunnel import DnsTunnels
from agentwatch.enrich.facts import behaviour_sighting, process_fields, sighting
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import SOCKET_BLOCK, PayloadFlag, Type

_ADDRESSES = ("A", "AAAA")
_PACKET_LENGTH = len(SOCKET_BLOCK) + 1


class Names:
    """Events of category `dns_query`; answers are remembered, so that later connects have a name.

    Data carried in names is an event of category `network_behaviour`, Kind dns_tunnel.
    """

    types: ClassVar = frozenset((int(Type.PAYLOAD),))

    def __init__(self, state: State) -> None:
        self._state = state
        self._tunnels: dict[int, DnsTunnels] = {}  # by agent

    def of(self, change: Change) -> Iterable[Sighting]:
        """A question or an answer, where the change is a DNS datagram."""
        if not change.payload_flags & PayloadFlag.DNS:
            return ()
        message = dns.parse(change.data)
        if message is None or not message.questions:
            return ()
        question = message.questions[0]
        results = tuple(answer.value for answer in message.answers)
        if message.is_response:
            for answer in message.answers:
                if answer.type in _ADDRESSES:
                    self._state.learn_name(answer.value, question.name)
        fields: dict[str, Value] = {
            **process_fields(self._state, change.process),
            "QueryName": question.name,
            "QueryType": question.type,
            "QueryResults": results,
            "QueryStatus": message.rcode if message.is_response else None,
        }
        query = sighting(self._state, "dns_query", change, fields)
        found = self._tunnel(change, message)
        if found is None:
            return (query,)
        return (query, behaviour_sighting(self._state, "network_behaviour", change, found))

    def _tunnel(self, change: Change, message: dns.DnsMessage) -> dict[str, Value] | None:
        number = change.agent.number
        tunnels = self._tunnels.get(number)
        if tunnels is None:
            tunnels = self._tunnels[number] = DnsTunnels()
        return tunnels.message(message, change.fields[_PACKET_LENGTH], change.time)
