"""frp: the byte that older clients put before TLS, and the messages of clients without TLS.

A message is a letter for its type, its length in eight bytes, and JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentwatch.detect.layer import Context, Unread, starts_with
from agentwatch.detect.tls import Tls
from agentwatch.detect.tunnel_tools import emit_tool

_MAX_MESSAGE: Final = 10240
_JUDGED: Final = 400
"""Bytes of a message within which its members' names stand."""
_MEMBERS: Final = {
    b"o": ((b'"version":"',), (b'"privilege_key":"', b'"run_id":"', b'"pool_count":', b'"client_spec":')),
    b"w": ((b'"run_id":"',), (b'"privilege_key":"', b'"timestamp":')),
    b"v": ((b'"proxy_name":"',), (b'"sign_key":"',)),
}
"""Of a login, a work connection, a visitor: a member that it has, and those of which it has one."""


is_headed_tls: Final[Callable[[bytes], bool | None]] = starts_with(b"\x17\x16\x03")
"""Whether a stream starts with frp's byte and a record of TLS."""


def is_message(head: bytes) -> bool | None:
    """Whether a stream starts with a client's first message; None if more bytes are needed to tell."""
    if any(head[1:7]) or head[9:10] not in (b"", b"{"):
        return False
    length = int.from_bytes(head[1:9], "big")
    if len(head) >= 9 and not 2 <= length <= _MAX_MESSAGE:
        return False
    if len(head) < min(9 + length, _JUDGED) or len(head) < 10:
        return None
    has, one_of = _MEMBERS[head[:1]]
    return all(name in head for name in has) and any(name in head for name in one_of)


class HeadedTls:
    """Takes the byte off and hands on the handshake."""

    def __init__(self, context: Context) -> None:
        emit_tool(context, "frp", "byte before TLS")
        self._tls = Tls(context)
        self._client: int | None = None
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._client is None:
            self._client, data = direction, data[1:]
        self._tls.feed(direction, data, gap, start)
        self.finished = self._tls.finished


class Message(Unread):
    """Reports `frp`; after the login its control connection is encrypted."""

    def __init__(self, context: Context) -> None:
        emit_tool(context, "frp", "message")
