"""bore's control protocol: JSON that ends with NUL, one member named for the message."""

from __future__ import annotations

import re
from typing import Final

from agentwatch.detect.layer import Context, Layer, starts_with
from agentwatch.detect.tunnel_tools import emit_tool

_opens: Final = starts_with(
    b'{"Hello":', b'{"Accept":"', b'{"Authenticate":"', b'{"Challenge":"', b'{"Connection":"'
)
_MESSAGE: Final = re.compile(
    rb'\{"(?:Hello":\d{1,5}|(?:Accept|Challenge|Connection)":"[0-9a-f-]{36}"|Authenticate":"[0-9a-f]{64}")\}\0'
)
_LONGEST: Final = 96


def is_bore(head: bytes) -> bool | None:
    """Whether a stream starts with a message of bore's; None if more bytes are needed to tell."""
    opens = _opens(head)
    if not opens:
        return opens
    end = head.find(b"}", 0, _LONGEST)
    if end < 0 or end + 1 == len(head):
        return None if len(head) < _LONGEST else False
    return _MESSAGE.match(head) is not None


class Bore:
    """Reports `bore` and takes the message off: what it lets through may follow, in both directions."""

    def __init__(self, context: Context) -> None:
        emit_tool(context, "bore", "control message")
        self._inside: Layer = context.inside(context.carrier).open()
        self._begun = False
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if not self._begun:
            self._begun = True
            data = data.partition(b"\0")[2]
        if data or gap:
            self._inside.feed(direction, data, gap, True)
        self.finished = self._inside.finished
