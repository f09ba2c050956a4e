"""A small coverage-guided fuzzer for where atheris is not installed: guided by lines, all in Python."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_BYTES = (0, 1, 0x7F, 0x80, 0x90, 0x9F, 0xC1, 0xC4, 0xC6, 0xDC, 0xDD, 0xDF, 0xFF)
_NUMBERS = (0, 1, 255, 1 << 20, 1 << 26, 1 << 31, (1 << 32) - 1)
_LARGEST = 20_000  # bytes of an input that is kept

Line = tuple[CodeType, int]


def lines_of(call: Callable[[], object], part: str) -> set[Line]:
    """The lines that `call` ran in files whose path holds `part`."""
    seen: set[Line] = set()

    def on_line(frame: FrameType, _event: str, _argument: Any) -> Any:
        seen.add((frame.f_code, frame.f_lineno))
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return on_line if part in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        call()
    finally:
        sys.settrace(before)
    return seen


def mutate(chance: random.Random, corpus: list[bytes]) -> bytes:
    """One of the corpus with one to five changes."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(5)
        if what == 0:
            data[at : at + 1] = bytes([chance.choice(_BYTES)])
        elif what == 1:
            data[at:at] = bytes(chance.choices(_BYTES, k=chance.randrange(1, 9)))
        elif what == 2:
            del data[at : at + chance.randrange(1, 20)]
        elif what == 3:
            data[at : at + 4] = chance.choice(_NUMBERS).to_bytes(4, chance.choice(("little", "big")))
        else:
            other = chance.choice(corpus)
            begin = chance.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + chance.randrange(64)]
    return bytes(data)


def fuzz(
    target: Callable[[bytes], object], corpus: list[bytes], part: str, seconds: float, seed: int
) -> tuple[int, int]:
    """Try mutations for so long, keeping those that reach new lines; returns runs and lines.

    Whatever `target` raises passes, with the input in a note on standard error.
    """
    chance = random.Random(seed)
    reached: set[Line] = set()
    runs, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(chance, corpus)
        try:
            lines = lines_of(lambda data=data: target(data), part)  # type: ignore[misc]
        except BaseException:
            print(f"found by: {data!r}", file=sys.stderr)
            raise
        runs += 1
        if lines - reached and len(data) <= _LARGEST:
            reached |= lines
            corpus.append(data)
    return runs, len(reached)
