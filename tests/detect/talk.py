"""A conversation played to the detectors, as the kernel side would report it."""

from __future__ import annotations

from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.event import Value


class Talk:
    """One flow. `says` and `hears` return the findings that they lead to; `findings` has all."""

    def __init__(self, initiated: bool | None = True, transport: str = "tcp", segment: int = 0) -> None:
        self.conversation = Conversation(initiated, transport)
        self.findings: list[Finding] = []
        self._segment = segment
        self._seq = [0xFFFFFFF0, 0x1000]
        self._message = [-1, -1]
        self._last = -1

    def says(self, data: bytes, captured: int | None = None) -> list[Finding]:
        """The watched process sends."""
        return self.passes(OUT, data, captured)

    def hears(self, data: bytes, captured: int | None = None) -> list[Finding]:
        """Its peer sends."""
        return self.passes(IN, data, captured)

    def passes(self, direction: int, data: bytes, captured: int | None = None) -> list[Finding]:
        if direction != self._last:
            self._message[direction] += 1
            self._last = direction
        found: list[Finding] = []
        size = self._segment or len(data) or 1
        for at in range(0, len(data), size):
            part = data[at : at + size]
            kept = part if captured is None else part[: max(0, captured - at)]
            found += self.conversation.segment(
                direction, self._seq[direction], kept, len(part), self._message[direction], 0
            )
            self._seq[direction] = (self._seq[direction] + len(part)) % 2**32
        self.findings += found
        return found

    def loses(self, direction: int, count: int) -> None:
        """Bytes pass of which no record comes."""
        self._seq[direction] = (self._seq[direction] + count) % 2**32

    def seen(self, protocol: str) -> list[dict[str, Value]]:
        """The attributes of the findings of one protocol."""
        return [dict(finding.attributes) for finding in self.findings if finding.protocol == protocol]
