"""HTTP/1 as a carrier (RFC 9112): requests and their bodies, CONNECT tunnels, WebSocket upgrades."""

from __future__ import annotations

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context, Layer
from agentwatch.detect.websocket import WebSocket

_METHODS = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE ")
_RESPONSE = b"HTTP/1."
_HEAD_LIMIT = 8192  # bytes of a head that are kept
_NO_PORT = 0


def begins(data: bytes) -> bool | None:
    """Whether a stream begins as HTTP/1; None while more bytes are needed."""
    if data.startswith((*_METHODS, _RESPONSE)):
        return True
    return None if any(word.startswith(data) for word in (*_METHODS, _RESPONSE)) else False


def split_authority(authority: str, default_port: int) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; the default where there is no valid port."""
    host, _, port = authority.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5:
        return authority.strip("[]"), default_port
    return host.strip("[]"), int(port)


class _Head:
    """One request or response head, parsed leniently: what attackers send is not always right."""

    def __init__(self, data: bytes) -> None:
        lines = data.replace(b"\r\n", b"\n").split(b"\n")
        self.words = lines[0].split(b" ")
        self.fields: dict[bytes, bytes] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                self.fields.setdefault(name.strip().lower(), value.strip())

    def field(self, name: bytes) -> str:
        return text(self.fields.get(name, b""))


class _Side:
    """One direction's head under way, and what its body is fed to."""

    def __init__(self) -> None:
        self.head = bytearray()
        self.body: Layer | None = None
        self.rest = 0  # bytes of body that follow
        self.chunked = False


class Http:
    """Both directions of an HTTP/1 connection."""

    def __init__(self, context: Context, direction: int) -> None:
        self._context = context
        self._sides = (_Side(), _Side())
        self._tunnel: Layer | None = None  # behind CONNECT or an upgrade: all further bytes
        self._pending: tuple[str, Context] | None = None  # a tunnel or upgrade that was asked for
        self._lost = False

    @property
    def finished(self) -> bool:
        return self._lost or (self._tunnel is not None and self._tunnel.finished)

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._tunnel is not None:
            self._tunnel.feed(direction, data, gap, start)
            return
        side = self._sides[direction]
        if gap or (start and side.rest):
            # Only the beginning of a body is captured; a new message starts a new head.
            side.head.clear()
            side.rest, side.body = 0, None
        while data:
            if side.rest:
                data = self._body(side, direction, data)
            elif side.chunked:
                self._feed_body(side, direction, data)
                return
            else:
                data = self._take_head(side, direction, data)
            if self._tunnel is not None:
                if data:
                    self._tunnel.feed(direction, data, False, True)
                return

    def _body(self, side: _Side, direction: int, data: bytes) -> bytes:
        part, rest = data[: side.rest], data[side.rest :]
        side.rest -= len(part)
        self._feed_body(side, direction, part)
        return rest

    def _feed_body(self, side: _Side, direction: int, data: bytes) -> None:
        if side.body is None:
            software = ""
            side.body = self._context.recognise(self._context.inside("http", software))
        side.body.feed(direction, data, False, False)

    def _take_head(self, side: _Side, direction: int, data: bytes) -> bytes:
        before = len(side.head)
        side.head += data
        end, length = side.head.find(b"\r\n\r\n"), 4
        if end < 0:
            end, length = side.head.find(b"\n\n"), 2
        if end < 0:
            if len(side.head) > _HEAD_LIMIT:
                self._lost = True
            return b""
        head = _Head(bytes(side.head[:end]))
        side.head.clear()
        self._on_head(side, direction, head)
        return data[end + length - before :]

    def _on_head(self, side: _Side, direction: int, head: _Head) -> None:
        side.body, side.chunked = None, b"chunked" in head.fields.get(b"transfer-encoding", b"").lower()
        size = head.fields.get(b"content-length", b"")
        side.rest = int(size) if size.isdigit() and len(size) < 12 else 0
        if head.words[0].startswith(_RESPONSE):
            self._on_response(head, direction)
            return
        context = self._context = self._context.sent_by(direction)
        if head.words[0] == b"CONNECT" and len(head.words) > 1:
            host, port = split_authority(text(head.words[1]), 443)
            context.emit("http-connect", DestinationHostname=host, Client=head.field(b"user-agent"))
            self._pending = ("connect", context.tunnel("connect", host, port))
            return
        host, _ = split_authority(head.field(b"host"), _NO_PORT)
        client = head.field(b"user-agent")
        context.emit("http", Method=text(head.words[0]), DestinationHostname=host, Client=client)
        if not size and not side.chunked and head.words[0] in (b"POST", b"PUT"):
            side.rest = 1 << 30  # no length given: whatever follows is the body
        if b"websocket" in head.fields.get(b"upgrade", b"").lower():
            self._pending = ("websocket", context.inside("websocket", client))
            side.rest = 0

    def _on_response(self, head: _Head, direction: int) -> None:
        status = head.words[1] if len(head.words) > 1 else b""
        if self._pending is None or status[:1] == b"1" and status != b"101":
            return
        kind, context = self._pending
        self._pending = None
        if kind == "connect" and status[:1] == b"2":
            self._tunnel = context.recognise(context)
        elif kind == "websocket" and status == b"101":
            self._tunnel = WebSocket(context)
        if self._tunnel is not None:
            self._sides[direction].rest = 0
