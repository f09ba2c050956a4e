"""What a round or a frame holds, without decoding it: counts, span of time, agents, pids."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agentwatch.sources.base import BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import (
    MAX_KEYS,
    RING_BUSY,
    RING_DISCARDED,
    RING_HEADER_SIZE,
    SLOT_SIZE,
    Layout,
)
from agentwatch.trace.pack import Cursor, pack, unpack

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(slots=True)
class Summary:
    """`records` counts what decoders will see; times are in ns since boot, 0 and 0 when there is none."""

    records: int = 0
    first_time: int = 0
    last_time: int = 0
    agents: set[int] = field(default_factory=set)
    pids: set[int] = field(default_factory=set)

    def span(self, first: int, last: int) -> None:
        """Widen the span of time to hold `first` and `last`."""
        if self.last_time or self.first_time:
            first = min(first, self.first_time)
            last = max(last, self.last_time)
        self.first_time, self.last_time = first, last

    def add(self, other: Summary) -> None:
        if other.records and (other.first_time or other.last_time):
            self.span(other.first_time, other.last_time)
        self.records += other.records
        self.agents |= other.agents
        self.pids |= other.pids

    def pack(self) -> bytes:
        """The summary of a frame: `[agents, pids]`, nil for a list that would be too long."""
        return pack([sorted(keys) if len(keys) <= MAX_KEYS else None for keys in (self.agents, self.pids)])


@dataclass(frozen=True, slots=True)
class Keys:
    """A frame's summary as read back; None where the frame holds too many to list."""

    agents: frozenset[int] | None
    pids: frozenset[int] | None

    @classmethod
    def unpack(cls, data: bytes) -> Keys:
        plain = unpack(data, 2 * MAX_KEYS + 3)
        if not isinstance(plain, list) or len(plain) != 2:
            raise TraceError("summary is not as the format says")
        return cls(_keys(plain[0]), _keys(plain[1]))

    def may_hold(self, agent: int | None = None, pid: int | None = None) -> bool:
        """Whether the frame can hold what concerns this agent and pid. 0 in a record concerns all."""
        return _may(self.agents, agent) and _may(self.pids, pid)


def _may(keys: frozenset[int] | None, key: int | None) -> bool:
    return keys is None or key is None or key in keys or 0 in keys


def _keys(plain: object) -> frozenset[int] | None:
    if plain is None:
        return None
    if not isinstance(plain, list) or not all(type(item) is int for item in plain):
        raise TraceError("summary is not as the format says")
    return frozenset(plain)


class Summariser:
    """Summarises rounds by the layouts that a trace's header gives. Takes any bytes."""

    def __init__(self, layouts: Mapping[BatchKind, Layout], byte_order: str) -> None:
        order = "<" if byte_order == "little" else ">"
        slots = layouts.get(BatchKind.SLOTS)
        records = layouts.get(BatchKind.RECORDS)
        self._slots = slots and _SlotReader(slots, order)
        self._records = records and _RecordReader(records, order)

    def __call__(self, rounds: Iterable[Round]) -> Summary:
        summary = Summary()
        for batches in rounds:
            for batch in batches:
                if batch.kind == BatchKind.NOTES:
                    _read_notes(batch.data, summary)
                elif batch.kind == BatchKind.SLOTS and self._slots:
                    self._slots.read(batch.data, summary)
                elif batch.kind == BatchKind.RECORDS and self._records:
                    self._records.read(batch.data, summary)
        return summary


def _fields(order: str, *where: tuple[int, int]) -> tuple[str, int]:
    """A `struct` format of fields in the order of their offsets, and its size."""
    code, end = order, 0
    for offset, size in sorted(where):
        code += f"{offset - end}x{_CODES[size]}"
        end = offset + size
    return code, end


class _SlotReader:
    """Reads columns: a slot costs some 0.15 µs, most of it inside `struct`."""

    def __init__(self, layout: Layout, order: str) -> None:
        times, times_end = _fields(order, layout.time)
        keys, keys_end = _fields(order, (0, 4), layout.agent, layout.pid)
        self._times = struct.Struct(f"{times}{SLOT_SIZE - times_end}x")
        self._keys = struct.Struct(f"{keys}{SLOT_SIZE - keys_end}x")
        self._swapped = layout.pid < layout.agent

    def read(self, data: bytes, summary: Summary) -> None:
        whole = memoryview(data)[: len(data) // SLOT_SIZE * SLOT_SIZE]
        if not whole:
            return
        keys = set(self._keys.iter_unpack(whole))
        if any(length >= RING_DISCARDED for length, _, _ in keys):
            whole = memoryview(b"".join(self._kept(whole)))
            keys = set(self._keys.iter_unpack(whole))
        times = [time for (time,) in self._times.iter_unpack(whole)]
        if not times:
            return
        summary.records += len(times)
        summary.span(min(times), max(times))
        agents, pids = {key[1] for key in keys}, {key[2] for key in keys}
        summary.agents |= pids if self._swapped else agents
        summary.pids |= agents if self._swapped else pids

    def _kept(self, whole: memoryview) -> Iterable[memoryview]:
        for index, (length, _, _) in enumerate(self._keys.iter_unpack(whole)):
            if length < RING_DISCARDED:
                yield whole[index * SLOT_SIZE : (index + 1) * SLOT_SIZE]


class _RecordReader:
    """Walks from ring header to ring header."""

    def __init__(self, layout: Layout, order: str) -> None:
        where = {"length": (0, 4), "time": layout.time, "agent": layout.agent, "pid": layout.pid}
        code, self._need = _fields(order, *where.values())
        self._head = struct.Struct(code)
        self._length = struct.Struct(order + "I")
        ranks = sorted(where, key=where.__getitem__)
        self._ranks = tuple(ranks.index(name) for name in ("time", "agent", "pid"))

    def read(self, data: bytes, summary: Summary) -> None:
        time_at, agent_at, pid_at = self._ranks
        times, agents, pids = [], set(), set()
        offset, end, need, unpack_head = 0, len(data), self._need, self._head.unpack_from
        while offset + need <= end:
            row = unpack_head(data, offset)
            length = row[0]
            if length >= RING_BUSY:
                break
            size = RING_HEADER_SIZE + (length & ~RING_DISCARDED)
            if length < RING_DISCARDED and need <= size <= end - offset:
                times.append(row[time_at])
                agents.add(row[agent_at])
                pids.add(row[pid_at])
            offset += (size + 7) & ~7
        if times:
            summary.records += len(times)
            summary.span(min(times), max(times))
            summary.agents |= agents
            summary.pids |= pids


def _read_notes(data: bytes, summary: Summary) -> None:
    """Counts `[type, time, agent, pid, ...]` entries up to the first that is not so."""
    cursor = Cursor(data)
    try:
        for _ in range(cursor.array()):
            inside = cursor.array()
            _, time, agent, pid = cursor.uint(), cursor.uint(), cursor.uint(), cursor.uint()
            for _ in range(inside - 4):
                cursor.skip()
            if inside < 4:
                return
            summary.records += 1
            summary.span(time, time)
            summary.agents.add(agent)
            summary.pids.add(pid)
    except TraceError:
        return
