"""docs/trace-format.md is enough to read a trace: this reader is written from it alone."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgpack  # type: ignore[import-untyped]
import zstandard

from agentwatch.trace.store import Rotation, segment_paths
from agentwatch.trace.writer import TraceWriter
from tests.trace.samples import header, rounds

GOLDEN = Path(__file__).parent.parent / "golden"


def read_by_the_book(file: BinaryIO) -> tuple[dict[str, Any], list[list[list[Any]]], dict[str, Any]]:
    """Header, rounds and end of a trace that is whole; raises ValueError for one that is not."""
    prefix = file.read(24)
    magic, version, zero, mark = struct.unpack("<8sII8s", prefix)
    if (magic, version, zero) != (b"\x89AWT\r\n\x1a\n", 1, 0):
        raise ValueError("no trace of version 1")
    header: dict[str, Any] = {}
    end: dict[str, Any] = {}
    rounds: list[list[list[Any]]] = []
    previous, expected = hashlib.sha256(prefix).digest(), 0
    while head := file.read(120):
        sync, type_, codec, summary_size, stored, plain_size = struct.unpack_from("<8sBBHII", head)
        records, round_count, zero, number, first, last = struct.unpack_from("<IIIQQQ", head, 20)
        if sync != mark or head[56:88] != previous or number != expected or zero:
            raise ValueError(f"frame {expected} is damaged")
        summary, payload = file.read(summary_size), file.read(stored)
        previous, expected = hashlib.sha256(head[:88] + summary + payload).digest(), expected + 1
        if previous != head[88:120]:
            raise ValueError(f"frame {number} is changed")
        plain = zstandard.ZstdDecompressor().decompress(payload) if codec == 1 else payload
        if len(plain) != plain_size:
            raise ValueError(f"frame {number} has another size")
        if type_ == 1:
            header = msgpack.unpackb(plain)
        elif type_ == 3:
            agents, pids = msgpack.unpackb(summary)
            if not (agents and pids and first <= last and records):
                raise ValueError(f"frame {number} has no summary")
            rounds += msgpack.unpackb(plain)
            round_count -= len(msgpack.unpackb(plain))
        elif type_ == 6:
            end = msgpack.unpackb(plain)
        elif type_ not in (2, 4, 5) and type_ < 128:
            raise ValueError(f"frame {number} is of unknown type {type_}")
        if round_count and type_ == 3:
            raise ValueError(f"frame {number} holds another number of rounds")
    return header, rounds, end


def test_the_writer_keeps_to_the_document(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    made = rounds(40)
    writer = TraceWriter(path, header(), rules=b"r", rotation=Rotation(max_bytes=5000))
    for batches in made:
        writer.append(batches)
        assert writer.flush()
    writer.close()
    got, numbers = [], []
    for file in segment_paths(path):
        with file.open("rb") as stream:
            head, some, end = read_by_the_book(stream)
        numbers.append(head["segment"])
        assert head["schema"] == header().schema and head["layouts"]["1"] == [[8, 8], [20, 4], [24, 4]]
        assert end["rounds"] == len(some)
        got += some
    assert got == [[[int(batch.kind), batch.data] for batch in batches] for batches in made]
    assert numbers == list(range(len(numbers))) and len(numbers) > 1


def test_the_golden_trace_keeps_to_the_document() -> None:
    for path in sorted(GOLDEN.glob("trace-v1*.awt")):
        head, some, end = read_by_the_book(io.BytesIO(path.read_bytes()))
        assert head["host"] == "golden" and len(some) == end["rounds"] == 20
