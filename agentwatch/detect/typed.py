"""Text that came in on a flow, compared with the commands that run shortly after.

A shell at a distance, however it is built, runs what its peer sends: the line `id` comes in, and
`id` or `sh -c id` runs. Protocols that carry commands for honest purposes frame them (JSON, a
length, a queue's name), so that no line of theirs is the command.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

LINES_KEPT: Final = 8
LINE_LIMIT: Final = 512
"""Characters of a line that are compared."""
RECENT_NS: Final = 2_000_000_000
"""How long after a line came in a command counts as its consequence."""

_ENDS: Final = re.compile(rb"[\r\n\0]+")
_PIECES: Final = re.compile(r"[|;&(){}\n`]+")
_AFTER: Final = re.compile(r"[ \t]*(?:[0-9]?[>;|&]|\n)")
_QUEUES: Final = re.compile(rb"[*$+:%~-][0-9]|MSG |RESERVED |VALUE ")
"""How messages of Redis, NATS, beanstalkd and memcached begin, which hold what was put in as a line."""
_FRAMES: Final = "".join(map(chr, range(33)))  # control characters, and the blank
_PROMPT: Final = re.compile(rb"[$#%>] (?:\x1b\[[0-9;?]*[a-zA-Z])*\Z")
_COMPLAINTS: Final = (b"no job control in this shell", b"can't access tty; job control turned off")


class Line(NamedTuple):
    """One line as it came; `cut` where there was more of it."""

    time: int
    text: str
    cut: bool


class Typed:
    """The last lines that came in on a flow. They are taken apart when they are asked for."""

    __slots__ = ("_came",)

    def __init__(self) -> None:
        self._came: deque[tuple[int, bytes, bool]] = deque(maxlen=LINES_KEPT)

    def receive(self, data: bytes, whole: bool, time: int) -> None:
        """Takes what came in: `whole` unless it was cut. What is not text is passed over."""
        self._came.append((time, data, whole))

    def is_order(self, commands: Sequence[str], time: int) -> bool:
        """Whether a recent line is one of these commands, word for word."""
        return any(
            _same(line, command) for line in self._recent(time) for command in commands if len(command) > 1
        )

    def mentions(self, argv: Sequence[str], time: int) -> bool:
        """Whether a recent line has a command with the name and the number of words of this one.

        For what runs below a shell that reads these lines: it resolves quotes and variables first.
        """
        return bool(argv) and any(
            (words := piece.split(maxsplit=1)) and words[0] == argv[0] and (len(words) > 1) == (len(argv) > 1)
            for line in self._recent(time)
            for piece in _PIECES.split(line.text)
        )

    def _recent(self, time: int) -> list[Line]:
        return [
            line
            for came, data, whole in self._came
            if 0 <= time - came <= RECENT_NS
            for line in _lines(came, data, whole)
        ]


@lru_cache(maxsize=64)  # several programs may run after one line
def _lines(time: int, data: bytes, whole: bool) -> list[Line]:
    if not _is_text(data) or _QUEUES.match(data):
        return []
    lines = []
    parts = _ENDS.split(data[: LINES_KEPT * LINE_LIMIT])
    for part in parts[:LINES_KEPT]:
        text = part[:LINE_LIMIT].decode("utf-8", "replace").strip(_FRAMES)
        if text:
            lines.append(Line(time, text, len(part) > LINE_LIMIT or (not whole and part is parts[-1])))
    return lines


def is_prompt(data: bytes) -> bool:
    """Whether a shell asks for the next command here, or says that it is nobody's terminal."""
    return _PROMPT.search(data[-32:]) is not None or any(words in data for words in _COMPLAINTS)


def _same(line: Line, command: str) -> bool:
    command = command.strip()[:LINE_LIMIT]
    if line.cut:
        return len(line.text) > 8 and command.startswith(line.text)
    if command == line.text:
        return True
    # What a handler adds: "2>&1", "; pwd"
    return command.startswith(line.text) and _AFTER.match(command, len(line.text)) is not None


def _is_text(data: bytes) -> bool:
    """Whether these bytes are text, but perhaps for a few that frame it."""
    head = data[:LINE_LIMIT]
    control = sum(byte < 32 and byte not in (0, 9, 10, 13, 27) for byte in head)
    return bool(head) and control * 8 <= len(head)
