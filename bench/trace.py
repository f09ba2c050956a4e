"""Recording: records a second on one core, bytes a record on disk, the event path's share, reading back.

The workload is made up but laid out as the schema says: an agent's forks, connects and closes in
slots, its execs and first messages in records, 400 processes, 60 hosts, growing times. Text
stands for nine in ten messages, noise (TLS) for the tenth. Goals: 1,000,000 records a second, 25 bytes a
record.
"""

from __future__ import annotations

import random
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import BY_NAME, RING_HEADER_SIZE, SLOT_SIZE
from agentwatch.schema.layout import HEADER_SIZE, body, body_struct
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.index import build_index
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.record import LAYOUTS, plain_schema
from agentwatch.trace.verify import verify
from agentwatch.trace.writer import TraceWriter
from bench.figures import show

ROUNDS = 1500
SLOTS_A_ROUND = 600
RECORDS_A_ROUND = 40
_HEADER = struct.Struct("<IIQHHIIIQ")
_TEXT = (
    b"GET /simple/numpy/ HTTP/1.1\r\nHost: files.example\r\nUser-Agent: pip/24.0\r\nAccept: */*\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 512\r\n\r\n"
    + b'{"a": [1, 2]}' * 20,
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"*3\r\n$3\r\nSET\r\n$5\r\nstate\r\n$7\r\nrunning\r\n",
)
_ARGV = (
    b"/usr/bin/python3\0-m\0pip\0install\0--no-index\0--find-links\0./wheels\0demo\0",
    b"git\0clone\0--depth\0001\0../origin\0work\0",
    b"/bin/sh\0-c\0set -e; for f in src/*.c; do cc -O2 -c $f; done\0",
    b"cc\0-O2\0-Wall\0-Iinclude\0-c\0src/main.c\0-o\0build/main.o\0",
)


class Workload:
    """Rounds as an agent's work fills the rings."""

    def __init__(self, seed: int = 1) -> None:
        self._chance = random.Random(seed)
        self._time = 10**13
        self._written = 0  # bytes in the ring so far: the ring header tells the page
        self._processes = [(4000 + 3 * n, 10**13 - self._chance.randrange(10**12)) for n in range(400)]
        self._hosts = [self._chance.randbytes(4) for _ in range(60)]
        self._flows = [self._socket(cookie) for cookie in range(1000, 3000)]

    def rounds(
        self, count: int, slots: int = SLOTS_A_ROUND, records: int = RECORDS_A_ROUND
    ) -> Iterator[Round]:
        for _ in range(count):
            begin = self._time
            batches = [Batch(BatchKind.SLOTS, b"".join(self._slot() for _ in range(slots)))] if slots else []
            end, self._time = self._time, begin
            if records:
                batches.append(Batch(BatchKind.RECORDS, b"".join(self._record() for _ in range(records))))
            self._time = max(end, self._time)
            yield tuple(batches)

    def _socket(self, cookie: int) -> tuple[object, ...]:
        ports = self._chance.randrange(32768, 60999), self._chance.choice((443, 443, 80, 22, 53))
        return (cookie, b"\x0a\0\0\x02", self._chance.choice(self._hosts), *ports, 2, 1, 6, 0)

    def _head(self, number: int, size: int, step: int) -> bytes:
        """Ring header and common header of a record of `size` bytes."""
        self._time += int(self._chance.expovariate(1 / step))
        self._written += size
        tgid, start = self._processes[min(int(self._chance.expovariate(0.05)), 399)]
        page = (self._written >> 12) & 0xFFF
        return _HEADER.pack(size - RING_HEADER_SIZE, page, self._time, number, 0, 1, tgid, tgid, start)

    def _slot(self) -> bytes:
        name = self._chance.choices(
            ("fork", "exit", "socket", "connect", "connected", "close"), (3, 3, 2, 2, 2, 2)
        )[0]
        event, chance = BY_NAME[name], self._chance
        flow = chance.choice(self._flows)
        fields: tuple[object, ...] = flow
        if name == "fork":
            parent, start = chance.choice(self._processes[:20])
            fields = (start, 0x1200011, parent)
        elif name == "exit":
            fields = (chance.choice((0, 0, 256)),)
        elif name == "connected":
            fields = (*flow, chance.randrange(50_000, 900_000), 0)
        elif name == "close":
            fields = (*flow, chance.randrange(4000), chance.randrange(60_000), chance.randrange(10**6, 10**9))
        slot = self._head(event.number, SLOT_SIZE, 3000) + body_struct(event).pack(*fields)
        return slot.ljust(SLOT_SIZE, b"\0")

    def _record(self) -> bytes:
        chance = self._chance
        if chance.random() < 0.6:
            data = chance.choice(_TEXT) if chance.random() < 0.9 else chance.randbytes(512)
            tail = 64 if len(data) <= 64 else 512
            flow = chance.choice(self._flows)
            fields: tuple[object, ...] = (*flow, chance.getrandbits(32), len(data), 1, min(len(data), tail))
            return self._tailed("payload", fields, data, tail)
        data = chance.choice(_ARGV)
        return self._tailed("exec_piece", (0, len(data), 3), data, 256)

    def _tailed(self, name: str, fields: tuple[object, ...], data: bytes, tail: int) -> bytes:
        event = BY_NAME[name]
        begin = body(event)[1]
        fixed = body_struct(event).pack(*fields).ljust(begin - HEADER_SIZE, b"\0")
        size = RING_HEADER_SIZE + begin + tail
        record = self._head(event.number, size, 45_000) + fixed + data[:tail].ljust(tail, b"\0")
        return record.ljust((size + 7) & ~7, b"\0")


def header() -> TraceHeader:
    return TraceHeader(
        schema_version=1,
        schema=plain_schema(),
        layouts=LAYOUTS,
        boot_id="",
        clock_offset=0,
        kernel="",
        host="",
        release="",
        created=0,
        byte_order="little",
    )


def recorded(path: Path, rounds: int, rules: RuleSet, seed: int = 1) -> Path:
    """A trace of so many rounds of the workload, made under these rules."""
    with TraceWriter(path, header(), rules=rules.to_bytes(), backlog_bytes=1 << 30) as writer:
        for batches in Workload(seed).rounds(rounds):
            writer.append(batches)
        assert writer.close(timeout=120).lost_rounds == 0
    return path


def _record_all(path: Path, rounds: list[Round]) -> tuple[float, float, float]:
    """CPU seconds of the process and of the event path, and bytes on disk a record."""
    cpu, path_cpu = time.process_time(), time.thread_time()
    writer = TraceWriter(path, header(), backlog_bytes=1 << 30)
    for batches in rounds:
        writer.append(batches)
    path_cpu = time.thread_time() - path_cpu
    status = writer.close(timeout=120)
    assert status.lost_rounds == 0 and status.state == "closed"
    return time.process_time() - cpu, path_cpu, status.stored_bytes / status.records


def main() -> None:
    rounds = list(Workload().rounds(ROUNDS))
    records = ROUNDS * (SLOTS_A_ROUND + RECORDS_A_ROUND)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.awt"
        runs = []
        for _ in range(5):
            path.unlink(missing_ok=True)
            runs.append(_record_all(path, rounds))
        cpu, path_cpu, stored = (statistics.median(column) for column in zip(*runs, strict=True))
        show("recording, all work on one core", records / cpu, "records/s", 1_000_000, at_least=True)
        show("on disk, mixed workload", stored, "bytes/record", 25)
        show("event path, a round", 1e6 * path_cpu / ROUNDS, "µs")
        for name, slots, many in (("slots", 640, 0), ("records", 0, 640)):
            other = Path(folder) / f"{name}.awt"
            only = list(Workload().rounds(ROUNDS // 10, slots, many))
            show(f"on disk, {name} alone", _record_all(other, only)[2], "bytes/record")
        _read_back(path, records)


def _read_back(path: Path, records: int) -> None:
    for name, read in (
        ("reading rounds back", lambda: sum(1 for _ in TraceReader(path))),
        ("verifying", lambda: verify(path)),
        ("building the index", lambda: build_index(path)),
    ):
        cpu = time.process_time()
        read()
        show(name, records / (time.process_time() - cpu), "records/s")
