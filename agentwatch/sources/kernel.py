"""The live source: rounds of records from the kernel's rings and from what is swept beside them."""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from agentwatch.clock import now
from agentwatch.kernel.probes import RECORDS_BYTES, SLOTS_BYTES, Probes
from agentwatch.kernel.ring import Ring
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import HOST, Type
from agentwatch.sources.base import Batch, BatchKind, Round

POLL_SECONDS = 0.01  # how long a routine event may lie in its ring
ROUND_SLOTS = 256  # a round is short (under 1 ms), so that an urgent record never waits long
ROUND_RECORD_BYTES = 256 << 10
LOSS_INTERVAL = 0.25  # seconds between looks at the loss counters
SWEEP_INTERVAL = 0.5  # seconds between sweeps for what no hook reports, at the least
SWEEP_SHARE = 100  # a sweep that took t is repeated after SWEEP_SHARE * t at the earliest: 1 % of a CPU
SLICE_NS = 1_000_000  # for long work in each round

Work = Iterator[None]
"""Long work that is done beside events: a slice of it each round. A step of it must be short."""


class KernelSource:
    """Reads what the probes emit. `poll` gives a round; `note` adds a record of user space's own."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._slots = Ring(probes.map("SLOTS"), SLOTS_BYTES)
        self._records = Ring(probes.map("RECORDS"), RECORDS_BYTES)
        self._epoll = select.epoll()
        for ring in (self._slots, self._records):
            self._epoll.register(ring.handle.fileno(), select.EPOLLIN)
        self._notes: list[tuple[Any, ...]] = []
        self._agents: set[int] = set()
        self._lost: dict[tuple[int, int], int] = {}
        self._total_lost = 0
        self._next_loss = self._next_sweep = monotonic()
        self._seen_sockets: set[int] = set()
        # Done now and then, for what no hook reports. One that may take long gives its steps.
        self.sweeps: list[Callable[[], Iterable[None] | None]] = [self._sweep_sockets]
        self._works: deque[Work] = deque()
        self._sweeping: Work | None = None
        self._swept = 0  # ns that the sweep under way has taken so far

    def watch(self, agent: int) -> None:
        """Account for the losses of this agent from now on."""
        self._agents.add(agent)
        # The number may have been another agent's before.
        self._lost.update(((agent, event), lost) for event, _, lost in self._probes.counts(agent) if lost)

    def unwatch(self, agent: int) -> None:
        """Account for what this agent lost, and from now on no more."""
        self._count(agent)
        self._agents.discard(agent)
        for key in [key for key in self._lost if key[0] == agent]:
            del self._lost[key]

    def note(
        self, type: Type, agent: int, *fields: Any, tgid: int = 0, start: int = 0, time: int | None = None
    ) -> None:
        """Queue a record of user space's own for the next round; fields in the schema's order.

        `time`, now unless given, is nanoseconds since boot.
        """
        self._notes.append((int(type), now() if time is None else time, agent, tgid, start, *fields))

    def poll(self, timeout: float = POLL_SECONDS) -> Round:
        """Wait up to `timeout` seconds for an urgent record; all that is there by then, or ()."""
        if not self._notes and self._slots.pending() < ROUND_SLOTS // 2:
            self._epoll.poll(0 if self._works else timeout)
        return self.take()

    def take(self) -> Round:
        """What is there now: a bounded part of it, the urgent ring first."""
        records = self._records.take_records(ROUND_RECORD_BYTES)
        slots = self._slots.take_slots(ROUND_SLOTS)
        self._look_around()
        self._work()
        batches = []
        if self._notes:
            batches.append(Batch(BatchKind.NOTES, pack_notes(self._notes)))
            self._notes = []
        if records:
            batches.append(Batch(BatchKind.RECORDS, records))
        if slots:
            batches.append(Batch(BatchKind.SLOTS, slots))
        return tuple(batches)

    def fill(self) -> dict[str, float]:
        """How much of each ring waits to be taken, 0 to 1."""
        return {
            "slots": self._slots.pending() / SLOTS_BYTES,
            "records": self._records.pending() / RECORDS_BYTES,
        }

    def drained(self) -> bool:
        """Whether nothing waits in the rings or among the notes."""
        return not (self._notes or self._slots.pending() or self._records.pending())

    def _look_around(self) -> None:
        clock = monotonic()
        if clock >= self._next_loss:
            self._next_loss = clock + LOSS_INTERVAL
            self.count_losses()
        if clock >= self._next_sweep and self._sweeping is None:
            self._sweeping, self._swept = self._sweep(), 0
            self.begin(self._sweeping, 0)

    def _sweep(self) -> Work:
        for sweep in list(self.sweeps):
            if sweep in self.sweeps:  # an agent may have gone meanwhile
                yield from sweep() or ()
            yield
        self._sweeping = None
        self._next_sweep = monotonic() + max(SWEEP_INTERVAL, self._swept / 1e9 * SWEEP_SHARE)

    def begin(self, work: Work, limit_ns: int | None) -> None:
        """Do as much of some work as `limit_ns` allows, all where None; the rest a slice a round."""
        if not _advance(work, limit_ns):
            self._works.append(work)

    def drop(self, work: Work) -> None:
        """Do no more of it."""
        with suppress(ValueError):
            self._works.remove(work)

    def _work(self) -> None:
        """A slice of what is under way, each in its turn."""
        if not self._works:
            return
        work = self._works.popleft()
        begun = now()
        if not _advance(work, SLICE_NS):
            self._works.append(work)
        if work is self._sweeping:
            self._swept += now() - begun

    def count_losses(self) -> None:
        """Queue a record for each kind of event that was lost since the last look."""
        total = sum(lost for _, _, lost in self._probes.counts(HOST))
        if total != self._total_lost:
            self._total_lost = total
            for agent in sorted(self._agents):
                self._count(agent)

    def _count(self, agent: int) -> None:
        for event, _, lost in self._probes.counts(agent):
            fresh = lost - self._lost.get((agent, event), 0)
            if fresh:
                self._lost[agent, event] = lost
                self.note(Type.LOSS, agent, event, fresh, "ring full")

    def _sweep_sockets(self) -> None:
        seen = set()
        for agent, tgid, start, inode, protocol, family, socktype in self._probes.other_sockets():
            seen.add(inode)
            if inode not in self._seen_sockets:
                fields = (inode, family, socktype, protocol, b"", 0, b"", 0, "open")
                self.note(Type.SOCKET_SEEN, agent, *fields, tgid=tgid, start=start)
        self._seen_sockets = seen

    def close(self) -> None:
        """Stop reading. The probes are the caller's to close."""
        self._epoll.close()
        self._slots.close()
        self._records.close()


def _advance(work: Work, limit_ns: int | None) -> bool:
    """Take steps until the time is over; whether none is left."""
    end = None if limit_ns is None else now() + limit_ns
    while end is None or now() < end:
        try:
            next(work)
        except StopIteration:
            return True
    return False
