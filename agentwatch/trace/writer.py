"""The recorder: rounds in on the event path, frames out on a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

import zstandard

from agentwatch.sources.base import Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import (
    MAX_BATCHES,
    MAX_PLAIN,
    MAX_ROUNDS,
    SYNC_SIZE,
    Body,
    Codec,
    FrameType,
    TraceHeader,
    chain_start,
    pack_rounds,
    prefix,
    seal,
    size_of,
)
from agentwatch.trace.pack import pack
from agentwatch.trace.sign import CONTEXT, Signature, Signer
from agentwatch.trace.store import Rotation, SegmentFile, Segments, clear_way, segment_path
from agentwatch.trace.summary import Summariser, Summary

FLUSH_SECONDS = 0.15  # with what is on its way, and the writing: no more than 200 ms are lost at a kill
FRAME_BYTES = 1 << 20
BACKLOG_BYTES = 32 << 20
ROUND_OVERHEAD = 256  # bytes of memory that a waiting round takes besides its data
SYNC_SECONDS = 1.0
SIGN_SECONDS = 1.0
COMPRESSION_LEVEL = 1  # level 3 saves 2 % on disk for 10 % more time, 5 saves 7 % for 250 %


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """How a recording fares. `state` is `recording`, `failing` (retried) or `closed`; sizes in bytes.

    `lost_*` is what the trace lacks, and says that it lacks; `errors` counts failed attempts to
    write, `last_error` says what the latest was.
    """

    state: str
    path: Path
    segment: int
    rounds: int
    records: int
    stored_bytes: int
    backlog_bytes: int
    lost_rounds: int
    lost_records: int
    lost_bytes: int
    errors: int
    last_error: str


@dataclass(slots=True)
class _Gap:
    """Rounds that the trace will lack, and why."""

    reason: str
    rounds: int = 0
    bytes: int = 0
    summary: Summary = field(default_factory=Summary)

    def add(self, batches: Round, summary: Summary) -> None:
        self.join(_Gap("", 1, size_of(batches), summary))

    def join(self, other: _Gap) -> None:
        self.rounds += other.rounds
        self.bytes += other.bytes
        self.summary.add(other.summary)

    def body(self) -> Body:
        plain = pack({"reason": self.reason, "bytes": self.bytes})
        return Body(
            FrameType.GAP,
            plain,
            len(plain),
            records=self.summary.records,
            rounds=self.rounds,
            first_time=self.summary.first_time,
            last_time=self.summary.last_time,
        )


class Snapshots(Protocol):
    """Knows the state and the rules after all that was written. Used by the recorder's thread."""

    rules: bytes
    digest: str

    def fold(self, batches: Round) -> None:
        """This round was written."""

    def rounds(self) -> list[Round]:
        """The state as records."""


class _Output:
    """Puts frames into the files of a recording. Used by one thread at a time.

    Methods raise `OSError`, and what they were to write can be given to them again then.
    """

    def __init__(
        self,
        path: Path,
        header: TraceHeader,
        *,
        rules: bytes,
        rotation: Rotation | None,
        signer: Signer | None,
        sync: bytes,
        snapshots: Snapshots | None,
    ) -> None:
        self._snapshots = snapshots
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        self._header = replace(header, public_key=signer.public_key if signer else b"")
        self._rules = rules
        self._rotation = rotation
        self._signer = signer
        self._sync_bytes = sync
        self._segments = Segments(path, rotation)
        self._removed: _Gap | None = None
        self._signed_at = self._synced_at = time.monotonic()
        self.stored_bytes = 0
        self._previous = b""
        self._create(0)

    def _create(self, segment: int) -> None:
        file, self.segment = self._segments.create(segment)
        self._file: SegmentFile | None = file
        self._header = replace(self._header, segment=self.segment, previous=self._previous)
        self._born = time.monotonic()
        self._totals = dict.fromkeys(("rounds", "records", "lost_rounds", "lost_records"), 0)

    def compress(self, type_: FrameType, plain: bytes) -> Body:
        return Body(type_, self._compressor.compress(plain), len(plain), Codec.ZSTD)

    def put(self, body: Body) -> None:
        """Write one frame where it belongs: behind the last, or into a new file."""
        self._write(self.ready(), body)

    def ready(self) -> SegmentFile:
        """The file to write to, opened and begun."""
        if self._file is not None:
            if not self._file.links():
                self._abandon(self._file)
            elif self._is_due(self._file):
                self.finish("rotated")
        if self._file is None:
            self._create(self.segment + 1)
        assert self._file is not None
        if not self._file.size:
            self._begin(self._file)
        return self._file

    def _is_due(self, file: SegmentFile) -> bool:
        rotation = self._rotation
        return rotation is not None and (
            file.size >= rotation.max_bytes or time.monotonic() - self._born >= rotation.max_age
        )

    def _abandon(self, file: SegmentFile) -> None:
        """Give up a file that was taken from us. One that has no name any more takes its rounds along."""
        if file.links() == 0:
            summary = Summary(self._totals["records"])
            self._removed = _Gap(f"file {self.segment} was removed", self._totals["rounds"], 0, summary)
        self._file = None
        file.close()

    def _begin(self, file: SegmentFile) -> None:
        """Write everything that comes before a file's first round, in one piece."""
        lead = prefix(self._sync_bytes)
        self._seq, self._previous = 0, chain_start(lead)
        told = self._snapshots.rounds() if self.segment and self._snapshots is not None else []
        if told and self._snapshots is not None:
            self._rules = self._snapshots.rules
            self._header = replace(self._header, rules_digest=self._snapshots.digest)
        bodies = [self.compress(FrameType.HEADER, self._header.pack())]
        if self._rules:
            bodies.append(self.compress(FrameType.RULES, self._rules))
        if told:
            bodies.append(self.compress(FrameType.SNAPSHOT, pack_rounds(told)))
        if self._removed:
            bodies.append(self._removed.body())
        self._write(file, *bodies, lead=lead)
        self._removed = None

    def _write(self, file: SegmentFile, *bodies: Body, lead: bytes = b"") -> None:
        """Write frames in one piece; nothing has changed when it fails."""
        pieces, seq, previous = [lead], self._seq, self._previous
        for body in bodies:
            frame, previous = seal(body, self._sync_bytes, seq, previous)
            pieces.append(frame)
            seq += 1
        before = file.size
        file.append(b"".join(pieces))
        self.stored_bytes += file.size - before
        self._seq, self._previous = seq, previous
        self._unsigned = self._unsynced = True
        for body in bodies:
            lost = "lost_" if body.type == FrameType.GAP else ""
            self._totals[lost + "rounds"] += body.rounds
            self._totals[lost + "records"] += body.records

    def settle(self) -> None:
        """Sign and sync what was written, each at most once a second."""
        now = time.monotonic()
        if self._file is None or not self._file.size:
            return
        if self._unsigned and now - self._signed_at >= SIGN_SECONDS:
            self._signed_at = now
            self._sign(self._file)
        if self._unsynced and now - self._synced_at >= SYNC_SECONDS:
            self._synced_at = now
            self._file.sync()
            self._unsynced = False

    def _sign(self, file: SegmentFile) -> None:
        if self._signer is None:
            return
        signature = self._signer.sign(CONTEXT + self._previous)
        plain = Signature(self._signer.public_key, signature).pack()
        self._write(file, Body(FrameType.SIGNATURE, plain, len(plain)))
        self._unsigned = False

    def finish(self, reason: str) -> None:
        """Write the end of the current file and let go of it."""
        file = self._file
        if file is None:
            return
        if not file.links():
            self._abandon(file)
            return
        if not file.size:
            self._begin(file)
        plain = pack({"reason": reason, **self._totals})
        self._write(file, Body(FrameType.END, plain, len(plain)))
        self._file = None  # whatever fails from here on, the file has its one end
        try:
            self._sign(file)
            file.sync()
        finally:
            file.close()


class TraceWriter:
    """Records rounds into a trace; nothing that happens to the disk reaches the caller of `append`.

    `append` and `close` belong to one thread. A thread of the writer's own compresses and
    writes, every 150 ms or 1 MiB. While the disk fails, up to `backlog_bytes` wait in memory and
    are tried again; what exceeds this is counted and becomes a gap in the trace. A file that was
    closed, removed or filled up under our hands is followed by a new one.

    `rules` are bytes that the reader gets back as they are. `signer` signs the chain once a
    second and at the end. `overwrite` replaces a regular file. `snapshots` tells every
    file but the first what was so at its beginning, so that it can be replayed alone. `sync` is the
    recording's random mark, for tests that need the same bytes twice. Raises `TraceError` where the
    file cannot be created at all.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: TraceHeader,
        *,
        rules: bytes = b"",
        rotation: Rotation | None = None,
        signer: Signer | None = None,
        backlog_bytes: int = BACKLOG_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        overwrite: bool = False,
        snapshots: Snapshots | None = None,
        sync: bytes | None = None,
    ) -> None:
        self._path = Path(path)
        if len(rules) > MAX_PLAIN:
            raise TraceError("rules are too large for a trace")
        try:
            if overwrite:
                clear_way(self._path)
            sync = os.urandom(SYNC_SIZE) if sync is None else sync
            self._output = _Output(
                self._path,
                header,
                rules=rules,
                rotation=rotation,
                signer=signer,
                sync=sync,
                snapshots=snapshots,
            )
        except OSError as error:
            raise TraceError(f"{self._path}: {error.strerror}") from None
        self._summarise = Summariser(header.layouts, header.byte_order)
        self._backlog_bytes = backlog_bytes
        self._flush_seconds = flush_seconds
        # The event thread alone writes these...
        self._queue: deque[Round | _Gap] = deque()
        self._appended = 0
        self._unannounced = 0
        self._gap: _Gap | None = None
        self._dropped = _Gap("")
        # ... and the recorder's thread alone these.
        self._taken = 0
        self._rounds = self._records = 0
        self._body: Body | None = None
        self._body_weight = 0
        self._body_rounds: list[Round] = []
        self._snapshots = snapshots
        self._spoiled = _Gap("")
        self._failing = False
        self._errors = 0
        self._last_error = ""
        self._closing = False
        self._closed = False
        self._wake = threading.Event()
        self._settled = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="trace-writer", daemon=True)
        self._thread.start()

    # --- the event path ---

    def append(self, batches: Round) -> None:
        """Record a round. Costs a few additions and a list append; never raises, never waits."""
        if not batches:
            return
        weight = size_of(batches) + ROUND_OVERHEAD
        waiting = self._appended - self._taken
        if self._closing or (waiting and waiting + weight > self._backlog_bytes):
            self._drop(batches)
            return
        if self._gap is not None:
            self._queue.append(self._gap)
            self._gap = None
        self._queue.append(batches)
        self._appended += weight
        self._unannounced += weight
        if self._unannounced >= FRAME_BYTES:
            self._unannounced = 0
            self._wake.set()

    def _drop(self, batches: Round) -> None:
        if self._gap is None:
            self._gap = _Gap("the disk did not keep up")
        summary = self._summarise((batches,))
        self._gap.add(batches, summary)
        self._dropped.add(batches, summary)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until all that was appended lies in the file; False when it took too long."""
        goal = self._appended
        self._wake.set()
        with self._settled:
            return self._settled.wait_for(lambda: self._taken >= goal, timeout)

    def close(self, timeout: float = 5.0) -> WriterStatus:
        """Write what waits and the end; gives up after `timeout` seconds. Never raises."""
        if not self._closing:
            if self._gap is not None:
                self._queue.append(self._gap)
                self._gap = None
            self._closing = True
            self._wake.set()
        self._thread.join(timeout)
        return self.status()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def lost_records(self) -> int:
        """`status().lost_records`, cheap enough to be asked for after every round."""
        return self._dropped.summary.records + self._spoiled.summary.records

    def status(self) -> WriterStatus:
        """How the recording fares now; some µs, from any thread."""
        lost = (self._dropped, self._spoiled)
        return WriterStatus(
            state="closed" if self._closed else "failing" if self._failing else "recording",
            path=segment_path(self._path, self._output.segment),
            segment=self._output.segment,
            rounds=self._rounds,
            records=self._records,
            stored_bytes=self._output.stored_bytes,
            backlog_bytes=self._appended - self._taken,
            lost_rounds=sum(gap.rounds for gap in lost),
            lost_records=self.lost_records,
            lost_bytes=sum(gap.bytes for gap in lost),
            errors=self._errors,
            last_error=self._last_error,
        )

    # --- the recorder's thread ---

    def _run(self) -> None:
        self._attempt(self._output.ready)  # a recording of nothing tells at least what it is of
        closing = False
        due = time.monotonic() + self._flush_seconds
        while not closing:
            self._wake.wait(due - time.monotonic())
            self._wake.clear()
            due = time.monotonic() + self._flush_seconds  # however long the disk takes
            closing = self._closing
            self._attempt(self._drain)
            self._attempt(self._output.settle)
            with self._settled:
                self._settled.notify_all()
        self._attempt(self._end)
        self._closed = True

    def _attempt(self, step: Callable[[], object]) -> None:
        """Do one step; whatever goes wrong is counted, and the next round of the loop tries again."""
        try:
            step()
        except OSError as error:
            self._fail(error.strerror or str(error))
        except Exception as error:  # a recorder that fails in any way must not end the watch
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, text: str) -> None:
        self._failing = True
        self._errors += 1
        self._last_error = text

    def _drain(self) -> None:
        while self._body is not None or self._queue:
            if self._body is None:
                self._body, self._body_weight = self._next_body()
            self._output.put(self._body)
            if self._body.type == FrameType.ROUNDS:
                self._rounds += self._body.rounds
                self._records += self._body.records
                self._note_written()
            self._body = None
            self._taken += self._body_weight
        self._failing = False

    def _note_written(self) -> None:
        if self._snapshots is not None:
            for batches in self._body_rounds:
                self._snapshots.fold(batches)

    def _next_body(self) -> tuple[Body, int]:
        """The next frame from what waits, and how much of the backlog it takes off."""
        first = self._queue.popleft()
        if isinstance(first, _Gap):
            return first.body(), 0
        rounds, size = [first], size_of(first)
        while self._queue and size < FRAME_BYTES and len(rounds) < MAX_ROUNDS:
            batches = self._queue[0]
            if isinstance(batches, _Gap):
                break
            size += size_of(batches)
            if size > MAX_PLAIN // 2:
                size -= size_of(batches)
                break
            rounds.append(batches)
            self._queue.popleft()
        self._body_rounds = rounds if self._snapshots is not None else []
        return self._encode(rounds), size + len(rounds) * ROUND_OVERHEAD

    def _encode(self, rounds: list[Round]) -> Body:
        summary = self._summarise(rounds)
        try:
            plain = pack_rounds(rounds)
            if len(plain) > MAX_PLAIN or any(len(batches) > MAX_BATCHES for batches in rounds):
                raise TraceError("round is too large for a frame")
            body = self._output.compress(FrameType.ROUNDS, plain)
        except Exception as error:  # out of memory above all: these rounds are lost, the next may not be
            return self._spoil(rounds, f"rounds could not be encoded: {error}")
        return replace(
            body,
            summary=summary.pack(),
            records=summary.records,
            rounds=len(rounds),
            first_time=summary.first_time,
            last_time=summary.last_time,
        )

    def _spoil(self, rounds: list[Round], reason: str) -> Body:
        self._errors += 1
        self._last_error = reason
        gap = _Gap(reason)
        for batches in rounds:
            summary = self._summarise((batches,))
            gap.add(batches, summary)
            self._spoiled.add(batches, summary)
        return gap.body()

    def _end(self) -> None:
        """End the file. What a failing disk still keeps from it is its last gap, or it gets no end."""
        left, counted = _Gap("the disk failed until the end"), _Gap("")
        if (body := self._body) is not None:
            stuck = _Gap(
                "", body.rounds, body.plain_size, Summary(body.records, body.first_time, body.last_time)
            )
            (counted if body.type == FrameType.GAP else left).join(stuck)
        for item in self._queue:
            if isinstance(item, _Gap):
                counted.join(item)
            else:
                left.add(item, self._summarise((item,)))
        self._spoiled.join(left)
        left.join(counted)
        if left.rounds:
            self._output.put(left.body())
        self._output.finish("closed")
