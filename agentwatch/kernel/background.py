"""Work for the kernel on a thread of its own: the interpreter goes on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """`work` runs on a thread. For long system calls: what computes would only take turns."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: list[T] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # raised again where the result is asked for
            self._error = error

    def result(self) -> T:
        """What the work gave, waited for. Raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result[0]


def results(works: Iterable[Background[T]]) -> list[T]:
    """What each gave, all of them waited for. Raises what the first that failed raised."""
    works = list(works)
    for work in works:
        with suppress(Exception):
            work.result()
    return [work.result() for work in works]
