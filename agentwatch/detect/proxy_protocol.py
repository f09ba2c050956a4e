"""HAProxy's PROXY protocol, versions 1 and 2: a header before the first bytes of a stream.

Pools behind a balancer take it, so a stream may start with it as well as without.
"""

from __future__ import annotations

from typing import Final

from agentwatch.detect.layer import Context, Layer

_TEXT: Final = b"PROXY "
_MAX_TEXT: Final = 107
_BINARY: Final = b"\r\n\r\n\0\r\nQUIT\n"
_MAX_BINARY: Final = 16 + 536


def is_header(head: bytes) -> bool | None:
    """Whether a stream starts with the header; None if more bytes are needed to tell."""
    for opening in (_TEXT, _BINARY):
        if head.startswith(opening):
            return True
        if opening.startswith(head):
            return None
    return False


def header_end(head: bytes) -> int:
    """Where the header ends: 0 if it has not ended yet, -1 if it is none."""
    if head.startswith(_TEXT):
        end = head.find(b"\n", 0, _MAX_TEXT) + 1
        return end or (-1 if len(head) >= _MAX_TEXT else 0)
    if len(head) < 16:
        return 0
    end = 16 + int.from_bytes(head[14:16], "big")
    if end > _MAX_BINARY:
        return -1
    return end if len(head) >= end else 0


class ProxyHeader:
    """Takes the header off and hands on what follows, and all of the other direction."""

    def __init__(self, context: Context) -> None:
        self._inside: Layer = context.inside(context.carrier).open()
        self._header: bytes | None = b""  # None: it is over
        self._sender: int | None = None
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._sender is None:
            self._sender = direction
        if direction == self._sender and self._header is not None:
            self._header += data
            end = header_end(self._header)
            if gap or end < 0:
                self.finished = True
            if end <= 0:
                return
            data, self._header, start = self._header[end:], None, True
        if data or gap:
            self._inside.feed(direction, data, gap, start)
        self.finished = self._inside.finished
