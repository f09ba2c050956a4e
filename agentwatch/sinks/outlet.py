"""What every sink of alerts has in common: a queue of its own, retries, and an account of itself.

A sink that is slow, full, hanging or dead fills its own queue and then drops what comes: nobody
waits for it. It is tried again until it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from agentwatch.rules.levels import LEVELS

QUEUE: Final = 10_000  # alerts that may wait for one sink
QUEUE_BYTES: Final = 32 << 20
BATCH: Final = 100  # alerts in one delivery
BATCH_BYTES: Final = 1 << 20
DELIVER_SECONDS: Final = 15.0  # for one delivery
FIRST_RETRY: Final = 0.5  # seconds; doubled with each failure
LAST_RETRY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Item:
    """An alert, and the JSON of it, which all sinks share."""

    alert: Mapping[str, Any]
    line: bytes


class Refused(Exception):
    """The other side will not have this delivery, and never will: it is dropped."""


class Sink(Protocol):
    """Delivers alerts to one destination."""

    async def deliver(self, batch: deque[Item]) -> None:
        """Take items from the left as they are delivered.

        Raises `OSError` where the rest is to be tried again, `Refused` where it is not. It may be
        cancelled at any time; what is left in `batch` then comes again.
        """

    def reopen(self) -> None:
        """Open files anew, as SIGHUP asks for."""

    def close(self) -> None:
        """Give back what it holds. It is used no more."""


class Outlet:
    """A sink with its queue, served by a task of its own.

    `say` is told when it fails, and when it works again.
    """

    def __init__(
        self, name: str, sink: Sink, say: Callable[[str], None], level: str = LEVELS[0], *, queue: int = QUEUE
    ) -> None:
        self.name = name
        self.sent = self.dropped = 0
        self.error = ""
        self._sink, self._say, self._limit = sink, say, queue
        self._levels = frozenset(LEVELS[LEVELS.index(level) :])
        self._queue: deque[Item] = deque()
        self._bytes = 0
        self._batch: deque[Item] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._delay = FIRST_RETRY
        self._task = asyncio.ensure_future(self._run())

    def status(self) -> dict[str, Any]:
        """Its account: alerts sent, dropped and queued; what is wrong, empty for nothing."""
        queued = len(self._queue) + len(self._batch)
        return {"sent": self.sent, "dropped": self.dropped, "queued": queued, "error": self.error}

    def put(self, item: Item) -> None:
        """Queue an alert. Never waits: one that has no room is dropped and counted."""
        if item.alert["rule"]["level"] not in self._levels:
            return
        if len(self._queue) >= self._limit or self._bytes + len(item.line) > QUEUE_BYTES:
            self.dropped += 1
            return
        self._queue.append(item)
        self._bytes += len(item.line)
        self._filled.set()
        self._idle.clear()

    def reopen(self) -> None:
        self._sink.reopen()

    async def close(self, seconds: float) -> None:
        """End, after so many seconds for what waits."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._task.cancel()
        await asyncio.wait([self._task])
        self._sink.close()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            self._fill()
            if not self._batch:
                self._filled.clear()
                self._idle.set()
                continue
            if not await self._deliver():
                await asyncio.sleep(self._delay * random.uniform(0.5, 1.0))
                self._delay = min(self._delay * 2, LAST_RETRY)

    def _fill(self) -> None:
        """Take a batch from the queue. One that was not delivered stays as it is."""
        if self._batch:
            return
        size = 0
        while self._queue and len(self._batch) < BATCH:
            size += len(self._queue[0].line)
            if self._batch and size > BATCH_BYTES:
                break
            item = self._queue.popleft()
            self._bytes -= len(item.line)
            self._batch.append(item)

    async def _deliver(self) -> bool:
        """Deliver the batch; False to try again later."""
        before = len(self._batch)
        try:
            await asyncio.wait_for(self._sink.deliver(self._batch), DELIVER_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            self._fail(reason_of(error))
            return False
        except Exception as error:  # one alert that a sink cannot digest must not stop it for ever
            self._fail(str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}")
            self.dropped += len(self._batch)
            before -= len(self._batch)
            self._batch.clear()
            return False
        else:
            self._work()
            return True
        finally:
            self.sent += before - len(self._batch)

    def _fail(self, reason: str) -> None:
        if not self.error:
            self._say(f"sink {self.name}: {reason}; it is tried again, and others go on")
        self.error = reason

    def _work(self) -> None:
        self._delay = FIRST_RETRY
        if self.error:
            self._say(f"sink {self.name} works again; {self.dropped} alerts were dropped since it began")
        self.error = ""


def reason_of(error: BaseException) -> str:
    """In a few words."""
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return "no answer in time"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:500]
