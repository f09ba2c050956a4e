"""SOCKS 4, 4a and 5 (RFC 1928, 1929): the request that is made of a proxy, then what is tunnelled."""

from __future__ import annotations

import socket

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context, Layer

_LIMIT = 600  # bytes of a handshake of one side
_CONNECT = 1


def begins(data: bytes) -> bool | None:
    """Whether a stream begins as a SOCKS client's: a greeting of version 5, or a request of version 4."""
    if not data:
        return None
    if data[0] == 5:
        if len(data) < 2:
            return None
        # A greeting lists 1 to 9 methods and ends there, or a request follows without waiting.
        methods = data[1]
        return 1 <= methods <= 9 and set(data[2 : 2 + methods]) <= {0, 1, 2, 3, 5, 6, 0x80}
    if data[0] == 4:
        if len(data) < 8:
            return None
        return data[1] in (1, 2) and data[2:4] != b"\0\0"
    return False


class Socks:
    """A client's handshake with a proxy. Behind the proxy's consent all bytes are tunnelled."""

    def __init__(self, context: Context, direction: int) -> None:
        self._context = context.sent_by(direction)
        self._client = direction
        self._data = [bytearray(), bytearray()]
        self._tunnel: Layer | None = None
        self._request_end = 0
        self._lost = False

    @property
    def finished(self) -> bool:
        return self._lost or (self._tunnel is not None and self._tunnel.finished)

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._tunnel is not None:
            self._tunnel.feed(direction, data, gap, start)
            return
        if self._lost:
            return
        self._data[direction] += data
        if gap or len(self._data[direction]) > _LIMIT:
            self._lost = True
        elif direction == self._client and not self._request_end:
            self._request()
        self._answer()

    def _request(self) -> None:
        data = bytes(self._data[self._client])
        parsed = _version_5(data) if data[0] == 5 else _version_4(data)
        if parsed is None:
            return
        host, port, self._request_end = parsed
        protocol = "socks5" if data[0] == 5 else "socks4"
        self._context.emit(protocol, DestinationHostname=host, DestinationPort=port)
        self._context = self._context.tunnel(protocol, host, port)

    def _answer(self) -> None:
        """Begin the tunnel once the proxy's last answer is there, with what came behind both."""
        if not self._request_end:
            return
        ours, theirs = self._data[self._client], self._data[1 - self._client]
        end = _answer_end(bytes(theirs), bytes(ours))
        if end is None:
            return
        self._tunnel = self._context.recognise(self._context)
        for direction, rest in ((self._client, ours[self._request_end :]), (1 - self._client, theirs[end:])):
            if rest:
                self._tunnel.feed(direction, bytes(rest), False, True)


def _version_4(data: bytes) -> tuple[str, int, int] | None:
    """Host, port, and where the request ends; None while it is not whole."""
    user_end = data.find(b"\0", 8)
    if len(data) < 9 or user_end < 0:
        return None
    port = int.from_bytes(data[2:4], "big")
    if data[4:7] != b"\0\0\0" or not data[7]:
        return socket.inet_ntoa(data[4:8]), port, user_end + 1
    name_end = data.find(b"\0", user_end + 1)  # 4a: the name stands behind the user
    if name_end < 0:
        return None
    return text(data[user_end + 1 : name_end]), port, name_end + 1


def _version_5(data: bytes) -> tuple[str, int, int] | None:
    position = 2 + data[1] if len(data) > 1 else 2
    if len(data) > position + 1 and data[position] == 1:  # RFC 1929: user and password
        name_end = position + 2 + data[position + 1]
        if len(data) <= name_end:
            return None
        position = name_end + 1 + data[name_end]
    if len(data) < position + 5 or data[position] != 5:
        return None
    size = {1: 4, 4: 16, 3: 1 + data[position + 4]}.get(data[position + 3])
    if size is None or len(data) < position + 4 + size + 2:
        return None
    end = position + 4 + size
    address = data[position + 4 : end]
    port = int.from_bytes(data[end : end + 2], "big")
    if data[position + 3] == 3:
        return text(address[1:]), port, end + 2
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, address), port, end + 2


def _answer_end(data: bytes, request: bytes) -> int | None:
    """Where the proxy's answers end; None while they are not whole."""
    if request[0] == 4:
        return 8 if len(data) >= 8 else None
    position = 2  # the chosen method
    if len(data) > 1 and data[1] == 2:
        position += 2  # the answer to user and password
    if len(data) < position + 5:
        return None
    size = {1: 4, 4: 16, 3: 1 + data[position + 4]}.get(data[position + 3])
    if size is None or len(data) < position + 4 + size + 2:
        return None
    return position + 4 + size + 2
