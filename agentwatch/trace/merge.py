"""Merging: several recordings of one boot as one trace, agents told apart by new numbers.

Times, process ids and sockets mean something within one boot alone. Traces of several hosts or boots
therefore stay apart: each of them is replayed for itself, side by side.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]

from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, TYPE
from agentwatch.schema.events import HOST, RING_HEADER_SIZE, SLOT_SIZE, Type
from agentwatch.schema.layout import HEADER_FIELDS
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.past import rows_of
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.select import places
from agentwatch.trace.sign import Signer
from agentwatch.trace.writer import TraceWriter

MAX_AGENTS: Final = 1 << 16
_AGENT_AT = RING_HEADER_SIZE + next(p.offset for p in HEADER_FIELDS if p.field.name == "agent")
_U32 = struct.Struct("<I")
_AGENT, _RULES = int(Type.AGENT), int(Type.RULES)
_BACKLOG: Final = 16 << 20


@dataclass(slots=True)
class Merged:
    """What came of it. `rules` is false where the traces had different ones: the result has none."""

    rounds: int = 0
    rules: bool = True
    damage: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Source:
    """One recording's file, as far as it was looked at before."""

    path: Path
    header: TraceHeader
    rules: bytes
    mark: bytes
    cgroups: set[int] = field(default_factory=set)
    first: int = 0
    last: int = 0
    digest: bytes = b""


def merge(paths: Sequence[Path], target: Path, *, signer: Signer | None = None) -> Merged:
    """Write the records of these files to a new trace at `target`, in the order of their times.

    Raises `TraceError` where they are of several boots, where two hold the same agent at the same
    time, or where one cannot be read or the target not be written.
    """
    sources = [_look(path) for path in paths]
    _check(sources)
    done = Merged(rules=len({source.header.rules_digest for source in sources}) == 1)
    sources.sort(key=lambda source: source.first)
    head = sources[0]
    header = replace(
        head.header,
        rules_digest=head.header.rules_digest if done.rules else "",
        agents=tuple(dict.fromkeys(name for source in sources for name in source.header.agents)),
        command=(),
        public_key=b"",
        segment=0,
        previous=b"",
        extra={
            **head.header.extra,
            "merge": [
                {"file": source.path.name, "mark": source.mark, "digest": source.digest} for source in sources
            ],
        },
    )
    with ExitStack() as stack:
        writer = TraceWriter(target, header, rules=head.rules if done.rules else b"", signer=signer)
        stack.callback(writer.close)
        numbers = _Numbers()
        streams = [
            stack.enter_context(_Stream(place, source, numbers, done)) for place, source in enumerate(sources)
        ]
        for _, _, batches in heapq.merge(*streams, key=lambda item: item[:2]):
            writer.append(batches)
            done.rounds += 1
            if writer.status().backlog_bytes > _BACKLOG:
                writer.flush()
        status = writer.close(60)
    if status.state != "closed" or status.lost_records:
        raise TraceError(f"{target}: {status.last_error or 'the disk is slow'}")
    return done


def _look(path: Path) -> _Source:
    with TraceReader(path) as reader:
        source = _Source(path, reader.header, reader.rules, reader.mark)
        for frame in reader.frames():
            if frame.body.last_time:
                source.first = min(source.first or frame.body.first_time, frame.body.first_time)
                source.last = max(source.last, frame.body.last_time)
            for batches in reader.rounds(frame):
                notes = tuple(batch for batch in batches if batch.kind is BatchKind.NOTES)
                for row in rows_of(notes):
                    if row[TYPE] == _AGENT:
                        source.cgroups.add(decode.unpack(row)[2])
        source.digest = reader.digest
    return source


def _check(sources: Sequence[_Source]) -> None:
    boots: dict[str, list[_Source]] = {}
    for source in sources:
        boots.setdefault(source.header.boot_id, []).append(source)
    if len(boots) > 1:
        groups = "; ".join(
            f"{of[0].header.host}: {', '.join(one.path.name for one in of)}" for of in boots.values()
        )
        raise TraceError(f"these are of several boots, merge those of each: {groups}")
    for place, one in enumerate(sources):
        for other in sources[place + 1 :]:
            overlap = one.first <= other.last and other.first <= one.last
            if overlap and one.cgroups & other.cgroups:
                raise TraceError(f"{one.path} and {other.path} hold the same agent at the same time")


class _Numbers:
    """New numbers of agents: those of one file are none of another's."""

    def __init__(self) -> None:
        self._given: dict[tuple[int, int], int] = {}

    def of(self, place: int, number: int) -> int:
        if number == HOST:
            return HOST
        if len(self._given) >= MAX_AGENTS:
            raise TraceError("too many agents")
        return self._given.setdefault((place, number), len(self._given) + 1)


class _Stream:
    """The rounds of one file with (time, place), renumbered, in growing order."""

    def __init__(self, place: int, source: _Source, numbers: _Numbers, done: Merged) -> None:
        self._place, self._source, self._numbers, self._done = place, source, numbers, done
        self._reader = TraceReader(source.path)

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def __iter__(self) -> Iterator[tuple[int, int, Round]]:
        time = 0
        for batches in self._reader:
            rows = rows_of(batches)
            time = max(time, rows[0][decode.TIME] if rows else 0)
            changed = tuple(self._renumbered(batch) for batch in batches)
            kept = tuple(batch for batch in changed if batch.data)
            if kept:
                yield time, self._place, kept
        self._done.damage += [f"{self._source.path.name}: {one}" for one in self._reader.damage]

    def _renumbered(self, batch: Batch) -> Batch:
        of, place = self._numbers.of, self._place
        if batch.kind is BatchKind.NOTES:
            try:
                rows = decode.notes(batch.data)
            except decode.DecodeError:
                return Batch(batch.kind, b"")
            items = msgpack.unpackb(batch.data, use_list=False, strict_map_key=True)
            kept = [
                (*item[:2], of(place, item[2]), *item[3:])
                for item, row in zip(items, rows, strict=True)
                if row[TYPE] != _RULES or (self._done.rules and (place == 0 or row[AGENT] != HOST))
            ]
            return Batch(batch.kind, decode.pack_notes(kept) if kept else b"")
        data = bytearray(batch.data)
        try:
            begins = (
                range(0, len(data), SLOT_SIZE)
                if batch.kind is BatchKind.SLOTS
                else (begin for begin, _ in places(batch.data))
            )
            for begin in begins:
                (number,) = _U32.unpack_from(data, begin + _AGENT_AT)
                _U32.pack_into(data, begin + _AGENT_AT, of(place, number))
        except (decode.DecodeError, struct.error):
            return Batch(batch.kind, b"")
        return Batch(batch.kind, bytes(data))
