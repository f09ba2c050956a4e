"""What is recognised in the bytes of one flow, over all its layers."""

from __future__ import annotations

from typing import Final

from agentwatch.detect import registry
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.detect.layer import Context, Layer
from agentwatch.enrich.streams import Chunk, Stream

MAX_FINDINGS: Final = 64
"""Distinct findings of one flow; further ones are dropped (a flow has a handful)."""

MAX_DATAGRAMS: Final = 8
"""Datagrams of one flow that may be nothing known before it is let go."""

_LATER: Final = (b"{", b"[", b"\x16", b"S")
"""First bytes of what may start after something unrecognised."""

_NOTHING: Final[list[Finding]] = []


class Recogniser:
    """The layer of raw bytes: finds out which protocol they are, then hands them to its layer.

    The first direction to be recognised decides for both. A conversation that nothing recognises
    is looked at again where a message starts like JSON, TLS or SSH: some relays want a word of
    their own before the protocol starts, and some protocols ask for TLS first.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._heads: list[bytes | None] = [b"", b""]  # None: recognised as nothing
        self._layer: Layer | None = None
        self._fallback: registry.Unrecognised | None = None
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        layer = self._layer
        if layer is None:
            later = start and data[:1] in _LATER
            if gap or later:
                self._cut(direction, start)
                layer = self._layer
        if layer is not None:
            layer.feed(direction, data, gap, start)
            self.finished = layer.finished
            return
        if not data:
            return
        head = self._heads[direction]
        if head is None and not later:
            self._unrecognised(direction, data, gap, start)
            return
        head = head + data if head else data
        entry, undecided = registry.recognise(head)
        if entry is not None:
            self._enter(entry, direction, head)
        elif undecided:
            self._heads[direction] = head
        else:
            self._heads[direction] = None
            self._unrecognised(direction, head, gap, start)

    def _cut(self, direction: int, start: bool) -> None:
        """What has come is all there will be of this beginning."""
        head = self._heads[direction]
        entry, _ = registry.recognise(head, more=False) if head else (None, False)
        if head and entry is not None:
            self._enter(entry, direction, head)
        else:
            self._heads[direction] = b"" if start else None
            if head:
                self._unrecognised(direction, head, False, True)

    def _unrecognised(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        fallback = self._fallback
        if fallback is None:
            fallback = self._fallback = registry.Unrecognised(self._context)
        if not fallback.finished:
            fallback.feed(direction, data, gap, start)

    def _enter(self, entry: registry.Entry, direction: int, head: bytes) -> None:
        self._layer = entry.layer(self._context)
        self._layer.feed(direction, head, False, True)
        other = self._heads[1 - direction]
        if other:
            self._layer.feed(1 - direction, other, False, True)
        self._heads = [None, None]
        self.finished = self._layer.finished


class DatagramRecogniser:
    """The layer of datagrams: the first that says what it is decides for the flow."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._layer: Layer | None = None
        self._unknown = 0
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._layer is None:
            if not data:
                return
            entry = registry.recognise_datagram(data)
            if entry is None:
                self._unknown += 1
                self.finished = self._unknown >= MAX_DATAGRAMS
                return
            self._layer = entry.layer(self._context)
        self._layer.feed(direction, data, gap, start)
        self.finished = self._layer.finished


class Conversation:
    """Both directions of one flow.

    `initiated`: whether the watched process connected (True), accepted (False), or is not known
    to have done either (None). `transport`: `tcp`; `udp`; `unix` for streams without sequence
    numbers.
    """

    __slots__ = ("_found", "_layer", "_seen", "_streams", "_unread")

    def __init__(self, initiated: bool | None, transport: str = "tcp") -> None:
        client = None if initiated is None else OUT if initiated else IN
        self._found: list[Finding] = []
        self._seen: list[Finding] = []
        self._streams: list[Stream] = [Stream(), Stream()] if transport == "tcp" else []
        self._unread = [-1, -1]
        context = Context(self._report, Recogniser, transport, client)
        self._layer: Layer | None = DatagramRecogniser(context) if transport == "udp" else Recogniser(context)

    @property
    def finished(self) -> bool:
        """Whether no further segment can yield a finding; the flow need not be fed any more."""
        return self._layer is None

    def end(self) -> None:
        """The flow is over. Layers that were at work lead back here: they go now, and need no collector."""
        self._layer = None

    def segment(
        self, direction: int, seq: int, data: bytes, wire_length: int, message: int, time: int
    ) -> list[Finding]:
        """Takes one payload record; returns what it newly proves, mostly nothing.

        `direction`: OUT or IN. `seq`, `wire_length` and `message` as in `Stream.feed`. `time`:
        nanoseconds since boot, for layers that judge by it.
        """
        if self._layer is None:
            return _NOTHING
        if self._streams:
            other = self._streams[1 - direction]
            if other.waiting:
                self._read(1 - direction, other.flush())
            stream = self._streams[direction]
            start = stream.follows(seq, data, wire_length, message)
            if start < 0:
                self._read(direction, stream.feed(seq, data, wire_length, message))
            else:
                self._hand_on(direction, data, False, start == 1)
        else:
            starts = message != self._unread[direction]
            self._unread[direction] = message
            self._hand_on(direction, data, False, starts)
            if wire_length > len(data):
                self._hand_on(direction, b"", True, False)
        if not self._found:
            return _NOTHING
        found, self._found = self._found, []
        return found

    def _read(self, direction: int, chunks: tuple[Chunk, ...] | list[Chunk]) -> None:
        for data, gap, start in chunks:
            self._hand_on(direction, data, gap, start)

    def _hand_on(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        layer = self._layer
        if layer is not None:
            layer.feed(direction, data, gap, start)
            if layer.finished:
                self._layer = None

    def _report(self, finding: Finding) -> None:
        seen = self._seen
        if len(seen) < MAX_FINDINGS and finding not in seen:
            seen.append(finding)
            self._found.append(finding)
