"""One thread for calls that may hang: a disk, a name lookup. The event loop never waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """Runs calls one after the other. A thread that hangs in the kernel keeps no process from ending."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """The call's result, to be awaited. One that is cancelled before its turn is left out."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = call(*arguments)
            except Exception as error:
                _tell(loop, future, future.set_exception, error)
            else:
                _tell(loop, future, future.set_result, result)

        self._calls.put(run)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, daemon=True)
            self._thread.start()
        return future

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def close(self) -> None:
        """End when the calls before are done. Nobody waits for it."""
        self._calls.put(None)


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], told: Callable[[Any], None], value: Any
) -> None:
    def tell() -> None:
        if not future.done():
            told(value)

    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell)
