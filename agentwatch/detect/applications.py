"""What the bytes of flows say: application protocols, recognised per flow from both directions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from agentwatch.detect import names
from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.detect.tunnels import Tunnels
from agentwatch.enrich.facts import flow_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.schema.events import SOCKET_BLOCK, Type

CONVERSATIONS_KEPT = 2048  # flows followed at once; the longest silent one is let go first
_SEQUENCE = len(SOCKET_BLOCK)
_DIGESTS = frozenset(("Hassh", "HasshServer"))  # of a key exchange: the banners were told before


class Applications:
    """Events of category `flow` for protocols. SSH banners are passed on to the tunnel detector."""

    types: ClassVar = frozenset((int(Type.PAYLOAD), int(Type.CLOSE)))

    def __init__(self, state: State, tunnels: Tunnels) -> None:
        self._state = state
        self._tunnels = tunnels
        self._open: dict[int, Conversation] = {}

    def of(self, change: Change) -> Iterable[Sighting]:
        """What the bytes of this change add to what is known of their flow."""
        flow = change.flow
        if flow is None or change.type == Type.CLOSE:
            if flow is not None:
                self._open.pop(flow.cookie, None)
            return ()
        sequence, packet_length, message, _ = change.fields[_SEQUENCE:]
        direction = IN if change.incoming else OUT
        conversation = self._conversation(flow)
        findings = conversation.segment(direction, sequence, change.data, packet_length, message, change.time)
        return [self._found(change, flow, finding) for finding in findings]

    def _conversation(self, flow: Flow) -> Conversation:
        conversation = self._open.pop(flow.cookie, None)
        if conversation is None:
            conversation = Conversation(flow.initiated, flow.transport)
            if len(self._open) >= CONVERSATIONS_KEPT:
                del self._open[next(iter(self._open))]
        self._open[flow.cookie] = conversation  # to the end: the order is that of the last bytes
        return conversation

    def _found(self, change: Change, flow: Flow, finding: Finding) -> Sighting:
        if finding.protocol == "dns":
            flow.application = "dns"
            sighting = names.told(self._state, change, finding.attributes)
        else:
            self._take_over(change, flow, finding)
            fields = {"Protocol": finding.protocol, **finding.attributes}
            sighting = flow_sighting(self._state, change, fields)
        sighting.truncated |= finding.cut
        return sighting

    def _take_over(self, change: Change, flow: Flow, finding: Finding) -> None:
        """What the finding says of the flow itself."""
        attributes = finding.attributes
        if "Behaviour" not in attributes or not flow.application:
            flow.application = finding.protocol
        name = attributes.get("DestinationHostname")
        if not name and not flow.domain and attributes.get("Role") == "client":
            name = attributes.get("ServerName")
        if isinstance(name, str) and name:
            flow.domain = name
        if "Alpn" in attributes:
            flow.attributes["Alpn"] = attributes["Alpn"]
        if finding.protocol == "ssh" and _DIGESTS.isdisjoint(attributes):
            self._tunnels.banner(change, flow, finding)
