"""Cutting: a trace of some of another's records, that can be replayed and says where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, START, TGID, TIME, TYPE, DecodeError, Row
from agentwatch.schema.events import BY_NUMBER, HOST, SOCKET_BLOCK, Type
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.index import build_index
from agentwatch.trace.past import Past, rows_of
from agentwatch.trace.reader import Damage, TraceReader
from agentwatch.trace.select import select
from agentwatch.trace.sign import Signer
from agentwatch.trace.writer import TraceWriter

MAX_FRAMES: Final = 50_000  # digests of frames that a header names
_PENDING: Final = 64 << 20  # bytes that may wait for the disk before the cutting waits for it, too
_FORK = int(Type.FORK)
_AGENT = int(Type.AGENT)
_LINEAGE = frozenset(map(int, (Type.FORK, Type.EXEC, Type.EXEC_PIECE, Type.PROCESS, Type.EXIT, Type.MARKER)))
"""What is kept of the processes above those that are wanted."""
_WITH_COOKIE = frozenset(
    number for number, event in BY_NUMBER.items() if event.fields[: len(SOCKET_BLOCK)] == SOCKET_BLOCK
)

Key = tuple[int, int]
Files = Sequence[Path]
"""The files of one recording, in their order."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is wanted: an agent by its name, a process by its id with all below it, a span of time in ns
    since boot, both ends included."""

    agent: str | None = None
    pid: int | None = None
    begin: int | None = None
    end: int | None = None

    def plain(self) -> dict[str, Any]:
        """For the header."""
        told = {"agent": self.agent, "pid": self.pid, "begin": self.begin, "end": self.end}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(slots=True)
class Cut:
    """What came of it. `damage` is what the trace lacks that it was cut from."""

    rounds: int = 0
    damage: list[str] = field(default_factory=list)


def cut(files: Files, selection: Selection, target: Path, *, signer: Signer | None = None) -> Cut:
    """Write the selected records to a new trace at `target`.

    It begins with what was so there: see `agentwatch.trace.past`. Raises `TraceError` where the files
    cannot be read, nothing is selected, or the target is there already or cannot be written.
    """
    tree = _Tree(selection.pid)
    if selection.pid is not None:
        for _, batches in _rounds(files, []):
            tree.learn(batches)
        if not tree.members:
            raise TraceError(f"there is no process {selection.pid} in the trace")
    done = Cut()
    writer: TraceWriter | None = None
    try:
        for (rules, header), batches in _Excerpt(files, selection, tree, done).rounds():
            if writer is None:
                writer = TraceWriter(target, header, rules=rules, signer=signer)
            writer.append(batches)
            done.rounds += 1
            if writer.status().backlog_bytes > _PENDING // 4:
                writer.flush()
    finally:
        status = writer.close(60) if writer is not None else None
    if status is None:
        raise TraceError("nothing in the trace is as asked for")
    if status.state != "closed" or status.lost_records:
        raise TraceError(f"{target}: {status.last_error or 'the disk is slow'}")
    return done


class _Excerpt:
    """Reads the files and leaves out what is not wanted."""

    def __init__(self, files: Files, selection: Selection, tree: _Tree, done: Cut) -> None:
        self._files, self._selection, self._tree, self._done = files, selection, tree, done
        self._names: dict[int, str] = {}
        self._begin = selection.begin or 0
        self._end = selection.end if selection.end is not None else 1 << 64

    def rounds(self) -> Iterator[tuple[tuple[bytes, TraceHeader], Round]]:
        """The rounds of the excerpt, each with rules and header of the whole."""
        head: tuple[bytes, TraceHeader] | None = None
        past: Past | None = None
        for reader, batches in _rounds(self._files, self._done.damage):
            if past is None:
                past = Past(reader.rules, reader.header.rules_digest)
            self._learn_names(batches)
            if self._begin:
                past.fold(select(batches, lambda row: row[TIME] < self._begin and self._wants(row)))
            kept = select(batches, lambda row: self._begin <= row[TIME] <= self._end and self._wants(row))
            if not kept:
                continue
            if head is None:
                head = past.rules, self._header(reader.header, past)
                for told in past.rounds():
                    yield head, told
            yield head, kept

    def _learn_names(self, batches: Round) -> None:
        for row in rows_of(batches):
            if row[TYPE] == _AGENT:
                with suppress(DecodeError, TypeError):
                    self._names[row[AGENT]] = str(decode.unpack(row)[0])

    def _wants(self, row: Row) -> bool:
        if row[AGENT] == HOST:
            return True
        if self._selection.agent is not None and self._names.get(row[AGENT]) != self._selection.agent:
            return False
        return self._selection.pid is None or self._tree.holds(row)

    def _header(self, header: TraceHeader, past: Past) -> TraceHeader:
        selection = self._selection
        told = {"from": [_origin(path, selection) for path in self._files], "selection": selection.plain()}
        return replace(
            header,
            rules_digest=past.digest,
            agents=(selection.agent,) if selection.agent is not None else header.agents,
            public_key=b"",
            segment=0,
            previous=b"",
            extra={**header.extra, "cut": told},
        )


def _origin(path: Path, selection: Selection) -> dict[str, Any]:
    """Which file, and the digests of its frames that can hold what is selected."""
    with TraceReader(path) as reader:
        mark, segment = reader.mark, reader.header.segment
    frames = [entry.digest for entry in build_index(path).select(selection.begin, selection.end)]
    return {"file": path.name, "mark": mark, "segment": segment, "frames": frames[:MAX_FRAMES]}


def _rounds(files: Files, damage: list[str]) -> Iterator[tuple[TraceReader, Round]]:
    """All rounds, and a note of loss wherever something is missing."""
    for place, path in enumerate(files):
        with TraceReader(path) as reader:
            for batches in reader.snapshot if place == 0 else ():
                yield reader, batches
            seen, last = 0, 0
            for frame in reader.frames():
                for batches in reader.rounds(frame):
                    yield reader, batches
                last = frame.body.last_time or last
                yield from ((reader, _loss(one, last)) for one in reader.damage[seen:])
                seen = len(reader.damage)
            yield from ((reader, _loss(one, last)) for one in reader.damage[seen:])
            damage += [f"{path.name}: {one}" for one in reader.damage]


def _loss(damage: Damage, time: int) -> Round:
    note = (int(Type.LOSS), time, HOST, 0, 0, 0, damage.records or 1, f"cut from a damaged trace: {damage}")
    return (Batch(BatchKind.NOTES, decode.pack_notes([note])),)


class _Tree:
    """Who belongs to a process: those below it, and above it for ancestry. Learns from the whole trace."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._state = State()
        self._above: set[Key] = set()
        self._cookies: set[int] = set()
        self.members: set[Key] = set()

    def learn(self, batches: Round) -> None:
        """One round, as the pipeline folds it."""
        for row in rows_of(batches):
            try:
                change = self._state.apply(0, row)
            except DecodeError:
                continue
            key = row[TGID], row[START]
            if not row[TGID]:
                continue
            if row[TGID] == self._pid and key not in self.members:
                self.members.add(key)
                process = self._state.processes.get(*key, row[AGENT])
                self._above |= {one.key for one in self._state.processes.ancestors(process)}
            process_now = change.process if change is not None else None
            if process_now is not None and process_now.key == key and process_now.parent in self.members:
                self.members.add(key)
            if change is not None and change.flow is not None and change.flow.owner in self.members:
                self._cookies.add(change.flow.cookie)

    def holds(self, row: Row) -> bool:
        """Whether a record is about them, or about no process."""
        key = row[TGID], row[START]
        if key in self.members:
            return True
        if key in self._above:
            return row[TYPE] in _LINEAGE
        if row[TYPE] in _WITH_COOKIE:
            with suppress(DecodeError):
                return decode.unpack(row)[0] in self._cookies
        return not row[TGID]
