"""SSH's identification strings and KEXINIT messages (RFC 4253), on any port, from any program.

HASSH is the digest of what a client's KEXINIT offers, HASSHServer of a server's, as Salesforce
publishes them (github.com/salesforce/hassh).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context
from agentwatch.detect.tunnel_tools import emit_tool

_MAX_LINE: Final = 255
_MAX_PREAMBLE: Final = 4096
_BANNERS: Final = (b"SSH-2.0-", b"SSH-1.99-")
_CHISEL: Final = re.compile(rb"SSH-chisel-v\d+-")
_MAX_KEXINIT: Final = 4096
_KEXINIT: Final = 20
_COOKIE: Final = 16
_LISTS: Final = 10


def is_ssh(head: bytes) -> bool | None:
    """Whether a stream starts with an SSH banner; None if more bytes are needed to tell."""
    if head.startswith(_BANNERS) or _CHISEL.match(head):
        return True
    if any(banner.startswith(head) for banner in _BANNERS):
        return None
    return None if head[:11] == b"SSH-chisel-"[: len(head)] and len(head) < 16 else False


def hassh(kexinit: bytes, of_client: bool) -> str:
    """The digest over a KEXINIT's payload (RFC 4253, 7.1); empty if it is none, or not whole."""
    lists: list[bytes] = []
    at = 1 + _COOKIE
    while len(lists) < _LISTS:
        length = int.from_bytes(kexinit[at : at + 4], "big")
        words = kexinit[at + 4 : at + 4 + length]
        if at + 4 > len(kexinit) or len(words) < length:
            return ""
        lists.append(words)
        at += 4 + length
    # Key exchange; then encryption, integrity and compression of what this side sends.
    chosen = lists[0:1] + (lists[2:8:2] if of_client else lists[3:8:2])
    return hashlib.md5(b";".join(chosen), usedforsecurity=False).hexdigest()


class _Side:
    """One direction: its banner, then its first packet."""

    def __init__(self) -> None:
        self.line = b""
        self.skipped = 0
        self.software = ""
        self.packet = b""
        self.over = False
        """Whether nothing more of it is looked at."""

    def kexinit(self) -> bytes | None:
        """The payload of the first packet; None while it is not whole, empty if it is another."""
        length = int.from_bytes(self.packet[:4], "big")
        if len(self.packet) < 6:
            return None
        if length > _MAX_KEXINIT or self.packet[4] >= length or self.packet[5] != _KEXINIT:
            return b""
        if len(self.packet) < 4 + length:
            return None
        return self.packet[5 : 4 + length - self.packet[4]]


class Ssh:
    """Reports protocol `ssh` with the first banner, again with both sides' software, and with
    `Hassh` and `HasshServer` as they become known.

    Where it is not known which side is the client, the software is given as `Software` (ours)
    and `PeerSoftware` instead of `Client` and `Server`, and there are no digests.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sides = (_Side(), _Side())
        self._digests: dict[str, str] = {}
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        side = self._sides[direction]
        if side.over:
            return
        if side.software:
            self._read_packet(direction, side, data, gap)
        else:
            self._read_lines(direction, side, data, gap)
        self.finished = self.finished or (self._sides[0].over and self._sides[1].over)

    def _read_lines(self, direction: int, side: _Side, data: bytes, gap: bool) -> None:
        if gap:
            side.line = b""
        rest = data
        while rest and not side.software and not self.finished:
            line, newline, rest = rest.partition(b"\n")
            side.line = (side.line + line + newline)[: _MAX_LINE + 1]
            if newline or len(side.line) > _MAX_LINE:
                self._end_line(side)
        if rest:
            self._read_packet(direction, side, rest, False)

    def _end_line(self, side: _Side) -> None:
        """A line is whole. A server may send others before its banner (4.2)."""
        line, side.line = side.line, b""
        if not is_ssh(line):
            side.skipped += len(line)
            self.finished = side.skipped > _MAX_PREAMBLE
            return
        version = line.split(b"-", 2)[2].strip() if line.count(b"-") >= 2 else b""
        side.software = text(version) or "?"
        self._report()
        if _CHISEL.match(line):
            emit_tool(self._context, "chisel", "banner SSH-chisel")

    def _read_packet(self, direction: int, side: _Side, data: bytes, gap: bool) -> None:
        if gap or self._context.client is None:
            side.over = True
            return
        side.packet = (side.packet + data)[: 4 + _MAX_KEXINIT]
        payload = side.kexinit()
        if payload is None:
            return
        side.over = True
        of_client = direction == self._context.client
        digest = hassh(payload, of_client) if payload else ""
        if digest:
            self._digests["Hassh" if of_client else "HasshServer"] = digest
            self._report()

    def _report(self) -> None:
        ours, peers = (side.software for side in self._sides)
        if self._context.client is None:
            self._context.emit("ssh", Software=ours, PeerSoftware=peers)
        elif self._context.role == "client":
            self._context.emit("ssh", Client=ours, Server=peers, **self._digests)
        else:
            self._context.emit("ssh", Client=peers, Server=ours, **self._digests)
