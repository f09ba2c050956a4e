"""The SSH identification string (RFC 4253 section 4.2), on any port, from any program."""

from __future__ import annotations

import re
from typing import Final

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context

_MAX_LINE: Final = 255
_MAX_PREAMBLE: Final = 4096
_BANNERS: Final = (b"SSH-2.0-", b"SSH-1.99-")
_CHISEL: Final = re.compile(rb"SSH-chisel-v\d+-")


def is_ssh(head: bytes) -> bool | None:
    """Whether a stream starts with an SSH banner; None if more bytes are needed to tell."""
    if head.startswith(_BANNERS) or _CHISEL.match(head):
        return True
    if any(banner.startswith(head) for banner in _BANNERS):
        return None
    return None if head[:11] == b"SSH-chisel-"[: len(head)] and len(head) < 16 else False


class Ssh:
    """Reports protocol `ssh` with the first banner, and again with both sides' software.

    Where it is not known which side is the client, the software is given as `Software` (ours)
    and `PeerSoftware` instead of `Client` and `Server`.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lines = [b"", b""]
        self._software = ["", ""]
        self._skipped = [0, 0]
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self.finished or self._software[direction]:
            return
        if gap:
            self._lines[direction] = b""
        for line in data.splitlines(keepends=True):
            self._lines[direction] = (self._lines[direction] + line)[: _MAX_LINE + 1]
            whole = line.endswith(b"\n") or len(self._lines[direction]) > _MAX_LINE
            if whole and self._end_line(direction):
                return

    def _end_line(self, direction: int) -> bool:
        """A line is whole: whether it was the banner. A server may send others before (4.2)."""
        line, self._lines[direction] = self._lines[direction], b""
        if not is_ssh(line):
            self._skipped[direction] += len(line)
            self.finished = self._skipped[direction] > _MAX_PREAMBLE
            return self.finished
        version = line.split(b"-", 2)[2].strip() if line.count(b"-") >= 2 else b""
        self._software[direction] = text(version) or "?"
        self._report()
        self.finished = all(self._software)
        return True

    def _report(self) -> None:
        ours, peers = self._software
        if self._context.client is None:
            self._context.emit("ssh", Software=ours, PeerSoftware=peers)
        elif self._context.role == "client":
            self._context.emit("ssh", Client=ours, Server=peers)
        else:
            self._context.emit("ssh", Client=peers, Server=ours)
