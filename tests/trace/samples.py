"""Records as the kernel's rings hold them, made up but deterministic."""

from __future__ import annotations

import io
import random
import struct
from dataclasses import replace

import zstandard

from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.format import (
    Body,
    Codec,
    FrameType,
    Layout,
    TraceHeader,
    chain_start,
    pack_rounds,
    prefix,
    seal,
)
from agentwatch.trace.pack import pack
from agentwatch.trace.reader import Damage, TraceReader
from agentwatch.trace.summary import Summariser

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


MARK = b"\x01\x02\x03\x04\x05\x06\x07\x08"


def rounds_body(batches: list[Round], **changes: object) -> Body:
    """A rounds frame as the writer makes them."""
    plain = pack_rounds(batches)
    summary = Summariser({BatchKind.SLOTS: LAYOUT, BatchKind.RECORDS: LAYOUT}, "little")(batches)
    body = Body(
        FrameType.ROUNDS,
        zstandard.compress(plain),
        len(plain),
        Codec.ZSTD,
        summary.pack(),
        summary.records,
        len(batches),
        summary.first_time,
        summary.last_time,
    )
    return replace(body, **changes)  # type: ignore[arg-type]


def plain_body(type: int, payload: bytes) -> Body:
    return Body(type, payload, len(payload))


def header_body() -> Body:
    return plain_body(FrameType.HEADER, header().pack())


def end_body(batches: list[Round]) -> Body:
    body = rounds_body(batches)
    return plain_body(FrameType.END, pack({"rounds": body.rounds, "records": body.records}))


def frames(*bodies: Body) -> list[bytes]:
    """The prefix and frames, chained, as pieces of a file."""
    pieces = [prefix(MARK)]
    previous = chain_start(pieces[0])
    for seq, body in enumerate(bodies):
        frame, previous = seal(body, MARK, seq, previous)
        pieces.append(frame)
    return pieces


def trace(*bodies: Body) -> bytes:
    """A file of a header and these frames."""
    return b"".join(frames(header_body(), *bodies))


def read(data: bytes) -> tuple[list[Round], list[Damage]]:
    """All that a reader gives of a file."""
    reader = TraceReader(io.BytesIO(data))
    return list(reader), reader.damage
