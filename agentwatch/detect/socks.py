"""SOCKS 4 and 4a (OpenSSH's `socks4` memo), SOCKS 5 (RFC 1928) with passwords (RFC 1929)."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context, Layer

_MAX_REQUEST = 1024


class Request(NamedTuple):
    """What a client asks of the proxy. `length`: bytes that the request takes."""

    command: int
    host: str
    port: int
    length: int


class Incomplete(Exception):
    """More bytes are needed."""


class Malformed(Exception):
    """This is no SOCKS."""


def _need(data: bytes, length: int) -> None:
    if len(data) < length:
        raise Incomplete


def parse_request5(data: bytes) -> Request:
    """RFC 1928 section 4; raises Incomplete or Malformed."""
    _need(data, 4)
    if data[0] != 5 or data[1] not in (1, 2, 3) or data[2] != 0:
        raise Malformed
    host, end = _address5(data, 3)
    _need(data, end + 2)
    return Request(data[1], host, int.from_bytes(data[end : end + 2], "big"), end + 2)


def _address5(data: bytes, at: int) -> tuple[str, int]:
    kind = data[at]
    if kind == 3:
        _need(data, at + 2)
        end = at + 2 + data[at + 1]
        _need(data, end)
        return text(data[at + 2 : end]), end
    if kind not in (1, 4):
        raise Malformed
    end = at + 1 + (4 if kind == 1 else 16)
    _need(data, end)
    return str(ipaddress.ip_address(data[at + 1 : end])), end


def parse_request4(data: bytes) -> Request:
    """SOCKS 4, and 4a where the address is 0.0.0.x; raises Incomplete or Malformed."""
    _need(data, 2)
    if data[0] != 4 or data[1] not in (1, 2):
        raise Malformed
    _need(data, 8)
    user_end = data.find(b"\0", 8)
    if user_end < 0:
        raise Incomplete if len(data) < _MAX_REQUEST else Malformed
    port, address, end = int.from_bytes(data[2:4], "big"), data[4:8], user_end + 1
    host = str(ipaddress.ip_address(address))
    if address[:3] == b"\0\0\0" and address[3]:
        host_end = data.find(b"\0", end)
        if host_end < 0:
            raise Incomplete if len(data) < _MAX_REQUEST else Malformed
        host, end = text(data[end:host_end]), host_end + 1
    return Request(data[1], host, port, end)


def is_socks4(head: bytes) -> bool | None:
    """Whether a stream starts with a SOCKS 4 request; None if more bytes are needed to tell."""
    try:
        parse_request4(head)
    except Incomplete:
        return None
    except Malformed:
        return False
    return True


def is_socks5(head: bytes) -> bool | None:
    """Whether a stream starts with a SOCKS 5 greeting or request; None if undecided.

    A greeting alone is decided when it is whole: `05 n`, and n methods.
    """
    if len(head) < 2:
        return None
    count = head[1]
    if head[0] != 5 or not 1 <= count <= 16:
        return False
    return True if len(head) >= 2 + count else None


class Socks:
    """The layer of a SOCKS conversation; what follows the request and its reply is a layer inside.

    The client's bytes after its request go inside at once: it may not wait for the reply, and
    what it says is no less said when the proxy refuses. The client is who speaks first, whoever
    connected: a reverse proxy is asked over a connection of its own.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client: int | None = None
        self._inside: Layer | None = None
        self._buffers = [b"", b""]
        self._version = 0
        self._greeted = False
        self._replied = False
        self._deaf = False  # to a server that makes no sense, until its next message
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._client is None:
            self._client = direction
        from_client = direction == self._client
        if self._deaf and not from_client:
            if not start:
                return
            self._deaf = False
        if self._inside is not None and (from_client or self._replied):
            self._inside.feed(direction, data, gap, start)
            self.finished = self._inside.finished
            return
        if gap or len(self._buffers[direction]) > _MAX_REQUEST:
            self.finished = from_client and self._inside is None
            self._replied = True  # the reply was within what is missing
            return
        self._buffers[direction] += data
        try:
            rest = self._read_client() if from_client else self._read_server()
        except Incomplete:
            return
        except Malformed:
            self.finished = from_client
            self._replied = self._deaf = True  # whatever this is, what the client asks for counts
            return
        if rest and self._inside is not None:
            self._inside.feed(direction, rest, False, True)
            self.finished = self._inside.finished

    def _read_client(self) -> bytes:
        direction = self._client or 0
        data = self._buffers[direction]
        _need(data, 1)
        self._version = self._version or data[0]
        if self._version == 4:
            return self._requested(parse_request4(data))
        if not self._greeted:
            _need(data, 2)
            greeting = 2 + data[1]
            _need(data, greeting + 1)
            if data[greeting] in (1, 5):
                data = self._buffers[direction] = data[greeting:]
            self._greeted = True  # or the greeting lies before what was captured
        if data[:1] == b"\x01":
            _need(data, 2)
            user_end = 2 + data[1]
            _need(data, user_end + 1)
            password_end = user_end + 1 + data[user_end]
            _need(data, password_end)
            data = self._buffers[direction] = data[password_end:]
        return self._requested(parse_request5(data))

    def _requested(self, request: Request) -> bytes:
        direction = self._client or 0
        proxy = f"socks{self._version}"
        context = self._context.sent_by(direction)
        inner = context.tunnel(proxy, request.host, request.port)
        context.emit(
            proxy, DestinationHostname=request.host, DestinationPort=request.port, Command=request.command
        )
        self._inside = inner.open()
        rest = self._buffers[direction][request.length :]
        self._buffers[direction] = b""
        return rest

    def _read_server(self) -> bytes:
        direction = 1 - (self._client or 0)
        data = self._buffers[direction]
        _need(data, 2)
        if data[0] == 0:  # SOCKS 4: a reply of eight bytes
            _need(data, 8)
            return self._reply_ends(direction, 8)
        at = 0
        if data[0] == 5 and (len(data) < 3 or data[2] in (1, 5)):
            at = 2  # the method chosen
            if data[1] == 2:
                at = 4  # and the answer to the password
        _need(data, at + 4)
        if data[at] != 5:
            raise Malformed
        _, end = _address5(data, at + 3)
        _need(data, end + 2)
        return self._reply_ends(direction, end + 2)

    def _reply_ends(self, direction: int, length: int) -> bytes:
        rest = self._buffers[direction][length:]
        self._buffers[direction] = b""
        self._replied = True
        return rest
