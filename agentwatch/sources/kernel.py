"""The live source: rounds of records from the kernel's rings and from what is swept beside them."""

from __future__ import annotations

import select
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
        self.sweeps = [self._sweep_sockets]  # done now and then, for what no hook reports

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
            self._epoll.poll(timeout)
        return self.take()

    def take(self) -> Round:
        """What is there now: a bounded part of it, the urgent ring first."""
        records = self._records.take_records(ROUND_RECORD_BYTES)
        slots = self._slots.take_slots(ROUND_SLOTS)
        self._look_around()
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
        if clock >= self._next_sweep:
            for sweep in self.sweeps:
                sweep()
            took = monotonic() - clock
            self._next_sweep = clock + max(SWEEP_INTERVAL, took * SWEEP_SHARE)

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
