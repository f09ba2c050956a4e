"""DNS: questions and answers of agents, and which name an address was asked for by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from agentwatch.detect import dns
from agentwatch.enrich.facts import process_fields, sighting
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import PayloadFlag, Type

_ADDRESSES = ("A", "AAAA")


class Names:
    """Events of category `dns_query`; answers are remembered, so that later connects have a name."""

    types: ClassVar = frozenset((int(Type.PAYLOAD),))

    def __init__(self, state: State) -> None:
        self._state = state

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
        return (sighting(self._state, "dns_query", change, fields),)
