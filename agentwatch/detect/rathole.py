"""rathole's control channel: a hello of 37 bytes each way, and a digest of 32 bytes to prove oneself.

A hello is bincode: a variant of four bytes (0), a version, 32 bytes that look random.
"""

from __future__ import annotations

from typing import Final

from agentwatch.detect.layer import Context
from agentwatch.detect.tunnel_tools import emit_tool

_HELLO: Final = 37
_AUTH: Final = 32
_OPENINGS: Final = (b"\0\0\0\0\0", b"\0\0\0\0\1")
_DISTINCT: Final = 20  # of 32 random bytes about 30 differ


class Rathole:
    """Gets what nothing recognised; the client is who speaks first."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client: int | None = None
        self._client_bytes = b""
        self._server_bytes = b""
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self.finished:
            return
        if self._client is None:
            self._client = direction
        if direction == self._client:
            self._client_bytes += data[: _HELLO + _AUTH + 1]
        else:
            self._server_bytes += data[: _HELLO + 1]
        asked, answered = self._client_bytes, self._server_bytes
        early = len(answered) < _HELLO < len(asked) or (answered and len(asked) < _HELLO)
        if gap or early or not (_may_be_hello(asked[:_HELLO]) and _may_be_hello(answered)):
            self.finished = True
        elif len(asked) >= _HELLO + _AUTH:
            self.finished = True
            if len(asked) == _HELLO + _AUTH and asked[:5] == answered[:5]:
                emit_tool(self._context.sent_by(self._client), "rathole", "hello")


def _may_be_hello(data: bytes) -> bool:
    """Whether these are the first bytes of a hello, or all of it."""
    if len(data) < _HELLO:
        return any(opening.startswith(data[:5]) for opening in _OPENINGS)
    return len(data) == _HELLO and data.startswith(_OPENINGS) and len(set(data[5:])) >= _DISTINCT
