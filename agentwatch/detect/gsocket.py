"""The first message of gsocket (gs-netcat) to its relay: listen at, or connect to, an address."""

from __future__ import annotations

from typing import Final

from agentwatch.detect.layer import Context, Unread
from agentwatch.detect.tunnel_tools import emit_tool

_SIZE: Final = 128
_LISTEN, _CONNECT = 1, 2
_KNOWN_FLAGS: Final = 0x1F
_RESERVED: Final = ((4, 16), (48, 128))
_ADDRESS: Final = 32  # where it begins; 16 bytes
_DISTINCT: Final = 8  # of an address's 16 bytes, a digest, about 15 differ


def is_gsocket(head: bytes) -> bool | None:
    """Whether a stream starts with such a message: type, version 1.x, flags, token, address, zeros.

    None if more bytes are needed to tell.
    """
    if head[0] not in (_LISTEN, _CONNECT) or head[1:2] not in (b"", b"\1"):
        return False
    if len(head) > 3 and (head[2] > 9 or head[3] & ~_KNOWN_FLAGS):
        return False
    if any(any(head[begin:end]) for begin, end in _RESERVED):
        return False
    if len(head) < _SIZE:
        return None
    return len(set(head[_ADDRESS : _ADDRESS + 16])) >= _DISTINCT


class Gsocket(Unread):
    """Reports `gsocket`; the rest is encrypted."""

    def __init__(self, context: Context) -> None:
        emit_tool(context, "gsocket", "relay message")
