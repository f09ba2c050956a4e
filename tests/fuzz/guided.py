"""A small coverage-guided fuzzer: inputs that reach new lines are kept and changed further.

It runs everywhere that the tests run. Atheris (libFuzzer), where it is installed, is faster.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import FrameType
from typing import Any, Protocol

MAX_INPUT = 4096  # bytes
_BLOCKS = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")


class Target(Protocol):
    """Takes any bytes; raises only where it found a mistake."""

    def __call__(self, data: bytes, /) -> None: ...


@dataclass(slots=True)
class Outcome:
    """How often the target ran, how many line transitions it reached, and the inputs that did."""

    runs: int
    reached: int
    corpus: list[bytes]


def fuzz(
    target: Target, seeds: Iterable[bytes], package: str, *, runs: int | None = None, seconds: float = 60.0
) -> Outcome:
    """Run `target` on changed seeds, `runs` times or for some seconds, guided by lines of `package`.

    The same seeds and `runs` give the same inputs. An input that makes the target raise is
    attached to the error, as hexadecimal digits.
    """
    chance, corpus, reached = random.Random(1), list(seeds), set[Any]()
    deadline = time.monotonic() + seconds
    for number in count():
        fresh = number < len(corpus)
        data = corpus[number] if fresh else mutate(chance, corpus)
        seen = _traced(target, data, package)
        if not seen <= reached:
            reached |= seen
            if not fresh:
                corpus.append(data)
        if number + 1 == runs or (runs is None and time.monotonic() > deadline):
            break
    return Outcome(number + 1, len(reached), corpus)


def mutate(chance: random.Random, corpus: list[bytes]) -> bytes:
    """One to eight small changes to one of the corpus's inputs."""
    data = bytearray(chance.choice(corpus))
    for _ in range(1 << chance.randrange(4)):
        at = chance.randrange(len(data) + 1)
        size = min(1 << chance.randrange(7), len(data) - at)
        choice = chance.randrange(6)
        if choice == 0:
            data[at : at + size] = b""
        elif choice == 1:
            data[at:at] = chance.randbytes(1 << chance.randrange(5))
        elif choice == 2:
            data[at:at] = chance.choice(_BLOCKS)
        elif choice == 3:
            other = chance.choice(corpus)
            start = chance.randrange(len(other) + 1)
            data[at : at + size] = other[start : start + size]
        elif at < len(data):
            data[at] = chance.randrange(256) if choice == 4 else data[at] ^ (1 << chance.randrange(8))
    return bytes(data[:MAX_INPUT])


def _traced(target: Target, data: bytes, package: str) -> set[Any]:
    """The transitions from line to line inside `package` that an input causes."""
    seen = set[Any]()
    with _tracing(package, seen):
        try:
            target(data)
        except Exception as error:
            raise AssertionError(f"input {data.hex()}") from error
    return seen


@contextmanager
def _tracing(package: str, seen: set[Any]) -> Iterator[None]:
    def per_call(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        if not frame.f_globals.get("__name__", "").startswith(package):
            return None
        code, last = frame.f_code, 0

        def per_line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            nonlocal last
            seen.add((code, last, frame.f_lineno))
            last = frame.f_lineno
            return per_line

        return per_line

    before = sys.gettrace()
    sys.settrace(per_call)
    try:
        yield
    finally:
        sys.settrace(before)
