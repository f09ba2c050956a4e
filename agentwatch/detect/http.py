"""HTTP/1 (RFC 9112): requests, CONNECT (RFC 9110 section 9.3.6), bodies, upgrades."""

from __future__ import annotations

import re
from typing import Final

from agentwatch.detect.finding import TEXT_LIMIT, text
from agentwatch.detect.layer import Context, Layer
from agentwatch.detect.stratum import Exchange, JsonMessages, Verdict
from agentwatch.detect.tunnel_tools import emit_tool, of_upgrade
from agentwatch.detect.websocket import WebSocket

MAX_HEAD: Final = 4096
MAX_REQUESTS: Final = 8
_MAX_CHUNK_LINE: Final = 64
_METHODS: Final = tuple(b"GET POST PUT HEAD DELETE OPTIONS PATCH TRACE CONNECT".split())
_KEPT: Final = (
    "host user-agent content-length transfer-encoding upgrade sec-websocket-protocol"
    " x-mining-extensions x-stratum x-roll-ntime".split()
)
_HEADER: Final = re.compile(
    rb"\n[ \t\r\v\f]*(%s)[ \t\r\v\f]*:([^\n]*)" % "|".join(_KEPT).encode(), re.IGNORECASE
)


class Head:
    """A request's or response's first line and the headers that matter here, names lower-cased.

    Of a request `method` and `target`; of a response `status`, else 0.
    """

    __slots__ = ("headers", "method", "status", "target")

    def __init__(self, method: str, target: str, status: int, headers: dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.status = status
        self.headers = headers

    @property
    def host(self) -> str:
        """The host asked for, without its port; from the target of a CONNECT."""
        return split_host(self.target if self.method == "CONNECT" else self.headers.get("host", ""))[0]

    @property
    def length(self) -> int | None:
        """Content-Length, None where it is missing or no number."""
        value = self.headers.get("content-length")
        if value is None:
            return None
        return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None

    @property
    def chunked(self) -> bool:
        coding = self.headers.get("transfer-encoding")
        return coding is not None and "chunked" in coding.lower()


def split_host(authority: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`; port 0 where there is none."""
    host, _, port = authority.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and len(port) <= 5):
        host, port = authority, "0"
    return text(host.strip("[]")), int(port)


def parse_head(data: bytes) -> Head | None:
    """Reads a head, whole or cut; None if its first line is that of no request or response."""
    first, whole_line, _ = data.partition(b"\n")
    words = first.rstrip(b"\r").split(b" ")
    if len(words) < 2:
        return None
    if words[0].startswith(b"HTTP/1.") and words[1].isdigit() and len(words[1]) == 3:
        return Head("", "", int(words[1]), _headers(data))
    if words[0] in _METHODS and (not whole_line or words[-1].startswith(b"HTTP/1.")):
        return Head(words[0].decode(), text(words[1]), 0, _headers(data))
    return None


def _headers(data: bytes) -> dict[str, str]:
    """Those that matter of a head; of some with one name the first."""
    headers: dict[str, str] = {}
    for name, value in _HEADER.findall(data):
        headers.setdefault(name.lower().decode(), text(value.strip()))
    return headers


def is_http(head: bytes) -> bool | None:
    """Whether a stream starts as HTTP/1 does; None if more bytes are needed to tell."""
    if head.startswith(_OPENINGS):
        return True
    return None if any(opening.startswith(head) for opening in _OPENINGS) else False


_OPENINGS: Final = (*(method + b" " for method in _METHODS), b"HTTP/1.")

# What a direction is in.
_HEAD, _LENGTH, _CLOSE, _CHUNK_SIZE, _CHUNK_DATA, _CHUNK_END, _LOST, _INSIDE = range(8)


class _Side:
    """One direction's place in its messages."""

    __slots__ = ("buffer", "remaining", "state")

    def __init__(self) -> None:
        self.state = _HEAD
        self.buffer = b""
        self.remaining = 0


_PATH: Final = frozenset(("Path",))
_NOTHING: Final[frozenset[str]] = frozenset()


class Http:
    """The layer of HTTP/1 messages. JSON bodies, WebSockets and tunnels are layers inside.

    A request is reported as protocol `http` with `Method`, `DestinationHostname`, `Path` and
    `Client`, the first MAX_REQUESTS different ones of a flow; a CONNECT as `http-connect` with the
    destination it asks for. Whether this is a pool's is for rules with a list of names to say.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sides = (_Side(), _Side())
        self._json: JsonMessages | None = None
        self._inside: Layer | None = None
        self._requests: set[tuple[str, str, str]] = set()
        self._mining = Exchange()
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        side = self._sides[direction]
        if gap:
            self._cut(direction, side)
        if start and side.state in (_LOST, _CLOSE):
            side.state, side.buffer = _HEAD, b""
        while not self.finished:
            if side.state == _INSIDE:
                if self._inside is not None and (data or gap):
                    self._inside.feed(direction, data, gap, start)
                    self.finished = self._inside.finished
                return
            if not data or side.state == _LOST:
                return
            data = self._step(direction, side, data)

    def _step(self, direction: int, side: _Side, data: bytes) -> bytes:
        """Takes bytes in the present state; returns what is left for the next."""
        if side.state == _HEAD:
            return self._read_head(direction, side, data)
        if side.state in (_CHUNK_SIZE, _CHUNK_END):
            return self._read_chunk_line(direction, side, data)
        if side.state == _CLOSE:
            self._bodies.feed(direction, data, False, False)
            return b""
        part, rest = data[: side.remaining], data[side.remaining :]
        self._bodies.feed(direction, part, False, False)
        side.remaining -= len(part)
        if not side.remaining:
            side.state = _HEAD if side.state == _LENGTH else _CHUNK_END
        return rest

    def _cut(self, direction: int, side: _Side) -> None:
        """Bytes are missing: acts on as much of a head as there is, then waits for a message."""
        if side.state == _INSIDE:
            return
        buffer, side.buffer = side.buffer, b""
        if side.state != _HEAD:
            self._bodies.feed(direction, b"", True, False)
        elif buffer and (head := parse_head(buffer)) is not None:
            self._act(direction, side, head)
        if side.state != _INSIDE:
            side.state = _LOST

    def _read_head(self, direction: int, side: _Side, data: bytes) -> bytes:
        fresh = not side.buffer
        if fresh:
            data = data.lstrip(b"\r\n")
        if fresh and data[:1] in (b"{", b"["):  # a body after a request that announced none
            side.state = _CLOSE
            self._bodies.restart(direction)
            return data
        kept = len(side.buffer)
        whole = side.buffer + data
        end = _head_end(whole, max(0, kept - 3))
        if end < 0:
            side.buffer = whole
            if len(whole) > MAX_HEAD:
                self._cut(direction, side)
            elif not fresh or whole:
                self._check_first_line(side)
            return b""
        side.buffer = b""
        head = parse_head(whole[:end])
        if head is None:
            side.state = _LOST
            return b""
        self._act(direction, side, head)
        return whole[end:]

    def _check_first_line(self, side: _Side) -> None:
        """Gives up early on what only looked like HTTP (NATS says CONNECT as well)."""
        line_end = side.buffer.find(b"\n")
        if line_end >= 0 and parse_head(side.buffer[: line_end + 1]) is None:
            side.state, side.buffer = _LOST, b""

    def _act(self, direction: int, side: _Side, head: Head) -> None:
        if head.status:
            self._respond(direction, side, head)
        else:
            self._request(direction, side, head)

    def _request(self, direction: int, side: _Side, head: Head) -> None:
        self._context = context = self._context.sent_by(direction)
        software = head.headers.get("user-agent", "")
        if head.method == "CONNECT":
            host, port = split_host(head.target)
            context.emit("http-connect", DestinationHostname=host, DestinationPort=port, Client=software)
            self._enter(direction, context.tunnel("connect", host, port).open())
            return
        if not self._requests:
            self._context = context.named(software)
        host = head.host
        request = (head.method, host, head.target)
        if request not in self._requests and len(self._requests) < MAX_REQUESTS:
            self._requests.add(request)
            cut = _PATH if len(head.target) >= TEXT_LIMIT else _NOTHING
            context.emit(
                "http",
                "",
                cut,
                Method=head.method,
                DestinationHostname=host,
                Path=head.target,
                Client=software,
            )
        if "x-mining-extensions" in head.headers:
            verdict = Verdict("getwork", "X-Mining-Extensions", True)
            self._mining.tell(self._context.inside("http"), direction, verdict)
        upgrade = head.headers.get("upgrade", "").lower()
        if upgrade:
            self._upgrade(upgrade, head, context)
        if upgrade == "websocket":
            self._enter(direction, WebSocket(context.inside("websocket", software)))
            return
        self._expect_body(direction, side, head, unannounced=head.method in ("POST", "PUT", "PATCH"))

    def _upgrade(self, upgrade: str, head: Head, context: Context) -> None:
        """Reports what the client wants to go on with."""
        subprotocol = head.headers.get("sec-websocket-protocol", "")
        tool = of_upgrade(upgrade, head.target, subprotocol)
        if tool is not None:
            emit_tool(context, *tool, DestinationHostname=head.host, Path=head.target)
        if upgrade == "websocket":
            context.emit(
                "websocket",
                DestinationHostname=head.host,
                Path=head.target,
                Client=head.headers.get("user-agent", ""),
                Subprotocol=subprotocol,
            )

    def _enter(self, direction: int, layer: Layer) -> None:
        """The client's next bytes go inside. It may not wait for the response, nor need we."""
        self._inside = layer
        self._sides[direction].state = _INSIDE

    def _respond(self, direction: int, side: _Side, head: Head) -> None:
        headers = head.headers
        if "x-stratum" in headers or "x-roll-ntime" in headers:
            verdict = Verdict("getwork", "X-Stratum" if "x-stratum" in headers else "X-Roll-NTime", False)
            self._mining.tell(self._context.inside("http"), direction, verdict)
        if self._inside is not None and (head.status == 101 or 200 <= head.status < 300):
            side.state = _INSIDE
            return
        if 100 <= head.status < 200:
            if head.status == 101:  # an upgrade to something else: raw bytes both ways
                self._enter(1 - direction, self._context.inside("upgrade").open())
                side.state = _INSIDE
            return
        if self._inside is not None:  # refused: the client goes on in HTTP
            self._inside = None
            other = self._sides[1 - direction]
            other.state, other.buffer = _HEAD, b""
        if head.status not in (204, 304):
            self._expect_body(direction, side, head, unannounced=True)

    def _expect_body(self, direction: int, side: _Side, head: Head, unannounced: bool) -> None:
        if self._json is not None:
            self._json.restart(direction)
        if head.chunked:
            side.state = _CHUNK_SIZE
        elif (length := head.length) is not None:
            side.state, side.remaining = (_LENGTH, length) if length else (_HEAD, 0)
        elif unannounced and head.status:
            side.state = _CLOSE
        # An unannounced body of a request is told from the next request by its first byte.

    @property
    def _bodies(self) -> JsonMessages:
        """The layer of bodies; most conversations have none that is read."""
        if self._json is None:
            self._json = JsonMessages(self._context.inside("http"), single=True, exchange=self._mining)
        return self._json

    def _read_chunk_line(self, direction: int, side: _Side, data: bytes) -> bytes:
        line, newline, rest = data.partition(b"\n")
        side.buffer += line[:_MAX_CHUNK_LINE]
        if not newline:
            return b""
        word, side.buffer = side.buffer.split(b";")[0].strip(), b""
        if side.state == _CHUNK_END:
            side.state = _CHUNK_SIZE
            return rest
        try:
            size = int(word, 16) if len(word) <= 8 else -1
        except ValueError:
            size = -1
        if size > 0:
            side.state, side.remaining = _CHUNK_DATA, size
        else:
            side.state = _HEAD if size == 0 else _LOST
        return rest


def _head_end(data: bytes, start: int) -> int:
    """Where a head's empty line ends, from `start` on; -1 if it is not there yet."""
    end = data.find(b"\r\n\r\n", start)
    bare = data.find(b"\n\n", start, end + 3 if end >= 0 else len(data))  # before it
    if bare >= 0:
        return bare + 2
    return end + 4 if end >= 0 else -1
