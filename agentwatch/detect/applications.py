"""What the bytes of flows say: application protocols, recognised per flow from both directions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from agentwatch.detect import names
from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.tunnels import Tunnels
from agentwatch.enrich.facts import flow_sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.schema.events import SOCKET_BLOCK, PayloadFlag, Type

CONVERSATIONS_KEPT = 2048  # flows followed at once; the longest silent one is let go first
_SEQUENCE = len(SOCKET_BLOCK)
_INCOMING = int(PayloadFlag.IN)
_DIGESTS = frozenset(("Hassh", "HasshServer"))  # of a key exchange: the banners were told before


class Applications:
    """Events of category `flow` for protocols. SSH banners are passed on to the tunnel detector."""

    def __init__(self, state: State, tunnels: Tunnels) -> None:
        self._state = state
        self._tunnels = tunnels
        self._open: OrderedDict[int, Conversation] = OrderedDict()  # the longest silent one first
        self.handlers: dict[int, Handler] = {
            int(Type.PAYLOAD): self._payload,
            int(Type.CLOSE): self._close,
        }

    def _payload(self, change: Change) -> Sequence[Sighting]:
        """What these bytes add to what is known of their flow."""
        flow = change.flow
        if flow is None:
            return NOTHING
        conversation = self._open.get(flow.cookie)
        if conversation is None:
            conversation = self._begin(flow)
        else:
            self._open.move_to_end(flow.cookie)
            if conversation.finished:
                return NOTHING
        sequence, packet_length, message, _ = change.fields[_SEQUENCE:]
        direction = IN if change.payload_flags & _INCOMING else OUT
        findings = conversation.segment(direction, sequence, change.data, packet_length, message, change.time)
        return [self._found(change, flow, finding) for finding in findings] if findings else NOTHING

    def _begin(self, flow: Flow) -> Conversation:
        conversation = Conversation(flow.initiated, flow.transport)
        if len(self._open) >= CONVERSATIONS_KEPT:
            self._open.popitem(last=False)[1].end()
        self._open[flow.cookie] = conversation
        return conversation

    def _close(self, change: Change) -> Sequence[Sighting]:
        conversation = self._open.pop(change.flow.cookie, None) if change.flow is not None else None
        if conversation is not None:
            conversation.end()
        return NOTHING

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
