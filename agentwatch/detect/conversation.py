"""The conversation of one flow: both directions' bytes, through the layers that carry them.

`Conversation` puts segments in order and hands the bytes to a layer. The outermost layer, and the
one inside every tunnel or body, is found by `recognise`: the table of protocols is there.
"""

from __future__ import annotations

from collections.abc import Callable

from agentwatch.detect import http, socks, stratum
from agentwatch.detect.finding import IN, OUT, Finding, text
from agentwatch.detect.json_stream import JsonStream
from agentwatch.detect.layer import Context, Layer, Opaque
from agentwatch.enrich.streams import Stream

_UNDECIDED = 64  # bytes looked at before a flow is given up as unknown
_BANNER = 255  # bytes of an SSH identification line (RFC 4253, section 4.2)
_FINDINGS = 32  # distinct findings of one flow; more say nothing new
_MALFORMED = 4  # lines that are no JSON before a stream is given up
_BLANK = b" \t\r\n\0\x1e"


class Conversation:
    """Recognises the protocols of one flow. Memory is bounded; no bytes make it raise."""

    __slots__ = ("_layer", "_new", "_seen", "_streams")

    def __init__(self, initiated: bool | None, transport: str) -> None:
        self._new: list[Finding] = []
        self._seen: set[tuple[object, ...]] = set()
        client = None if initiated is None else OUT if initiated else IN
        context = Context(self._report, recognise, "tcp", client)
        self._layer: Layer | None = Recogniser(context) if transport == "tcp" else None
        self._streams = (Stream(), Stream())

    def segment(
        self, direction: int, seq: int, data: bytes, wire_length: int, message: int, time: int
    ) -> list[Finding]:
        """Takes one captured segment (see `Stream.feed`); the findings that it completes."""
        layer = self._layer
        if layer is None:
            return []
        for chunk in self._streams[direction].feed(seq, data, wire_length, message):
            layer.feed(direction, chunk.data, chunk.gap, chunk.start)
        if layer.finished:
            self._layer = None
        if not self._new:
            return []
        found, self._new = self._new, []
        return found

    def _report(self, finding: Finding) -> None:
        key = (finding.protocol, *sorted((name, str(value)) for name, value in finding.attributes.items()))
        if key not in self._seen and len(self._seen) < _FINDINGS:
            self._seen.add(key)
            self._new.append(finding)


def recognise(context: Context) -> Layer:
    """A layer for bytes of an unknown protocol."""
    return Recogniser(context)


class Recogniser:
    """Waits for the first bytes of either direction and becomes the layer that they call for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first = [bytearray(), bytearray()]
        self._layer: Layer | None = None
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._layer is None:
            self._first[direction] += data
            layer = self._choose(direction)
            if layer is None:
                self.finished = max(map(len, self._first)) > 8 * _UNDECIDED
                return
            self._layer = layer
            for side in (direction, 1 - direction):
                if self._first[side]:
                    layer.feed(side, bytes(self._first[side]), False, True)
        else:
            self._layer.feed(direction, data, gap, start)
        self.finished = self._layer.finished

    def _choose(self, direction: int) -> Layer | None:
        data = bytes(self._first[direction])
        for begins, make in _PROTOCOLS:
            verdict = begins(data)
            if verdict is None:
                return None  # more bytes will tell
            if verdict:
                return make(self._context, direction)
        return Unknown(self._context)


class Ssh:
    """SSH: the identification lines of both sides (RFC 4253, section 4.2)."""

    def __init__(self, context: Context, direction: int) -> None:
        # Either side may speak first: who connected is the client, not who spoke.
        self._context = context if context.client is not None else context.sent_by(direction)
        self._lines = [bytearray(), bytearray()]
        self._done = [False, False]
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._done[direction]:
            return
        line = self._lines[direction]
        line += data[: _BANNER - len(line)]
        end = line.find(b"\n")
        if end < 0 and len(line) < _BANNER and not gap:
            return
        self._done[direction] = True
        self.finished = all(self._done)
        banner = text(bytes(line if end < 0 else line[:end]).strip())
        if banner.startswith("SSH-"):
            side = "Client" if direction == self._context.client else "Server"
            self._context.emit("ssh", **{side: banner.split("-", 2)[-1]})


class JsonLines:
    """JSON messages of both directions, looked at for mining."""

    def __init__(self, context: Context, direction: int | None = None) -> None:
        self._context = context
        self._readers = (JsonStream(stratum.VOCABULARY), JsonStream(stratum.VOCABULARY))

    @property
    def finished(self) -> bool:
        return all(reader.malformed >= _MALFORMED for reader in self._readers)

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        reader = self._readers[direction]
        if reader.malformed >= _MALFORMED:
            return
        if gap:
            reader.lose()
        if start and reader.lost:
            reader.reset()
        for message in reader.feed(data):
            self._tell(direction, stratum.classify(message))
        # What is known of a message under way may decide already: it may be cut, or come one
        # byte at a time.
        if reader.changed and reader.partial is not None:
            reader.changed = False
            self._tell(direction, stratum.classify(reader.partial))

    def _tell(self, direction: int, verdict: stratum.Verdict | None) -> None:
        if verdict is None:
            return
        sent_by_us = direction == OUT
        role = verdict.sender if sent_by_us else _OTHER[verdict.sender]
        self._context.emit(
            "stratum",
            role,
            Dialect=verdict.dialect,
            Method=verdict.method,
            Client=text(verdict.software or self._context.software),
        )


_OTHER = {stratum.CLIENT: stratum.SERVER, stratum.SERVER: stratum.CLIENT}


class Xatum:
    """Xelis' line protocol: `method~json`."""

    def __init__(self, context: Context, direction: int) -> None:
        self._context = context
        self._line = bytearray()
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        self._line += data[: 512 - len(self._line)]
        verdict = stratum.xatum(bytes(self._line))
        if verdict is not None:
            role = verdict.sender if direction == OUT else _OTHER[verdict.sender]
            self._context.emit("stratum", role, Dialect=verdict.dialect, Method=verdict.method)
        self.finished = verdict is not None or len(self._line) >= 512


class Unknown:
    """None of the protocols above: only Stratum v2, which has no text, is looked for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first = [bytearray(), bytearray()]
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        first = self._first[direction]
        first += data[: stratum.NOISE_SERVER + 1 - len(first)]
        verdict = stratum.version_2(bytes(first))
        if verdict is not None:
            role = verdict.sender if direction == OUT else _OTHER[verdict.sender]
            self._context.emit("stratum", role, Dialect=verdict.dialect, Method=verdict.method)
            self.finished = True
        elif self._is_noise():
            # A shape, not a proof: a protocol of its own, so that rules can weigh it.
            self._context.emit("stratum-v2-noise", Method="handshake")
            self.finished = True
        else:
            self.finished = min(map(len, self._first)) > stratum.NOISE_CLIENT + 1

    def _is_noise(self) -> bool:
        sizes = [len(first) for first in self._first]
        if sorted(sizes) != [stratum.NOISE_CLIENT, stratum.NOISE_SERVER]:
            return False
        return all(stratum.looks_random(bytes(first)) for first in self._first)


def _prefix(*prefixes: bytes) -> Callable[[bytes], bool | None]:
    """Whether data begins with one of these; None while it could still become one."""

    def begins(data: bytes) -> bool | None:
        if data.startswith(prefixes):
            return True
        return None if any(prefix.startswith(data) for prefix in prefixes) else False

    return begins


def _json(data: bytes) -> bool | None:
    stripped = data.lstrip(_BLANK)
    return None if not stripped and len(data) < _UNDECIDED else stripped[:1] in (b"{", b"[")


def _opaque(protocol: str) -> Callable[[Context, int], Layer]:
    return lambda context, direction: Opaque(context, protocol)


_PROTOCOLS: tuple[tuple[Callable[[bytes], bool | None], Callable[[Context, int], Layer]], ...] = (
    (_json, JsonLines),
    (_prefix(b"SSH-"), Ssh),
    (_prefix(b"\x16\x03"), _opaque("tls")),
    (_prefix(b"PRI * HTTP/2"), _opaque("http2")),
    (_prefix(b"Content-Length:", b"Content-Type:"), _opaque("lsp")),
    (_prefix(b"shake~"), Xatum),
    (http.begins, http.Http),
    (socks.begins, socks.Socks),
)
"""How each protocol begins, and its layer; the first that fits is taken."""
