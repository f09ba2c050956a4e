"""Records as the kernel's rings hold them, made up but deterministic."""

from __future__ import annotations

import random
import struct

from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.format import Layout, TraceHeader
from agentwatch.trace.pack import pack

LAYOUT = Layout(time=(8, 8), agent=(20, 4), pid=(24, 4))
SLOT = struct.Struct("<IIQIII100x")  # ring header (length, page), time, type, agent, pid
RECORD = struct.Struct("<IIQIII")
START = 10**13


def slot(time: int, agent: int = 1, pid: int = 100, discarded: bool = False) -> bytes:
    return SLOT.pack(120 | discarded << 30, 0, time, 3, agent, pid)


def record(time: int, body: bytes, agent: int = 1, pid: int = 100) -> bytes:
    data = RECORD.pack(RECORD.size - 8 + len(body), 0, time, 9, agent, pid) + body
    return data + bytes(-len(data) % 8)


def slots(*parts: bytes) -> Batch:
    return Batch(BatchKind.SLOTS, b"".join(parts))


def records(*parts: bytes) -> Batch:
    return Batch(BatchKind.RECORDS, b"".join(parts))


def notes(*parts: list[object]) -> Batch:
    return Batch(BatchKind.NOTES, pack(parts))


def header(**changes: object) -> TraceHeader:
    fields: dict[str, object] = {
        "schema_version": 1,
        "schema": {"events": [{"name": "exec", "fields": ["pid", "argv"]}]},
        "layouts": {BatchKind.SLOTS: LAYOUT, BatchKind.RECORDS: LAYOUT},
        "boot_id": "6b1a2a3c-0000-4000-8000-000000000001",
        "clock_offset": 1_700_000_000_000_000_000,
        "kernel": "6.18.0",
        "host": "host",
        "release": "0.1.0",
        "created": 1_700_000_001_000_000_000,
        "coverage": {"exec": True, "lsm": False},
        "rules_digest": "00" * 32,
        "mode": "enforce",
        "agents": ("demo",),
        "command": ("python3", "agent.py"),
        "byte_order": "little",
    }
    return TraceHeader(**{**fields, **changes})  # type: ignore[arg-type]


def rounds(count: int, seed: int = 1) -> list[Round]:
    """Rounds of one to forty records of every kind, at growing times, of three agents and nine pids."""
    chance = random.Random(seed)
    time, made = START, []
    for number in range(count):
        agent = 1 + number % 3
        batches = []
        many = []
        for _ in range(chance.randrange(1, 20)):
            time += chance.randrange(1, 5000)
            many.append(slot(time, agent, 100 * agent + chance.randrange(3)))
        batches.append(slots(*many))
        if number % 2:
            body = chance.randbytes(chance.randrange(300))
            batches.append(records(record(time, body, agent, 100 * agent)))
        if number % 5 == 0:
            everyone = [200, time, agent, 0, 0, "snapshot", number]
            batches.append(notes(everyone, [201, time, agent, 100 * agent, 7]))
        made.append(tuple(batches))
    return made
