"""WireGuard's handshake (wireguard.com/protocol), and the datagrams by which Tailscale finds its peers."""

from __future__ import annotations

from typing import Final

from agentwatch.detect.layer import Context, Unread
from agentwatch.detect.tunnel_tools import emit_tool

_INITIATION: Final = b"\1\0\0\0"
_INITIATION_SIZE: Final = 148
_RESPONSE: Final = b"\2\0\0\0"
_RESPONSE_SIZE: Final = 92
_DISCO: Final = b"TS\xf0\x9f\x92\xac"
_DISCO_SIZE: Final = 6 + 32 + 24 + 16  # magic, sender's key, nonce, tag
_DISTINCT: Final = 64  # of the 132 bytes that look random about 104 differ


def is_wireguard(datagram: bytes) -> bool:
    """Whether a datagram is a handshake initiation: its type, its size, and keys that look random."""
    return (
        len(datagram) == _INITIATION_SIZE
        and datagram.startswith(_INITIATION)
        and len(set(datagram[8:132])) >= _DISTINCT
    )


class Wireguard:
    """Reports `wireguard` with `Stage` `asked` for an initiation, `answered` for its response."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client: int | None = None
        self._sender = b""
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if is_wireguard(data):
            first = self._client is None
            self._client, self._sender = direction, data[4:8]
            if first:
                self._emit("asked")
        elif (
            direction != self._client
            and len(data) == _RESPONSE_SIZE
            and data.startswith(_RESPONSE)
            and data[8:12] == self._sender
        ):
            self.finished = True
            self._emit("answered")

    def _emit(self, stage: str) -> None:
        assert self._client is not None
        emit_tool(self._context.sent_by(self._client), "wireguard", "handshake", Stage=stage)


def is_disco(datagram: bytes) -> bool:
    """Whether a datagram is one of Tailscale's disco messages."""
    return datagram.startswith(_DISCO) and len(datagram) >= _DISCO_SIZE


class Disco(Unread):
    """Reports `tailscale`; the first message says all."""

    def __init__(self, context: Context) -> None:
        emit_tool(context, "tailscale", "disco")
