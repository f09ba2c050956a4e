"""Reading a trace that may be damaged, unfinished, or made by an enemy.

Nothing in a file makes the reader raise after it was opened, hold more than one frame at a
time, or take more than linear time. What is missing stands in `damage`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from agentwatch.sources.base import Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import (
    ENDS_INSIDE,
    FRAME_HEAD_SIZE,
    MAX_ROUNDS,
    OPTIONAL_FRAME,
    PREFIX,
    Frame,
    FrameHead,
    FrameType,
    TraceHeader,
    chain_start,
    expand,
    open_frame,
    read_head,
    read_prefix,
    unpack_rounds,
)
from agentwatch.trace.pack import unpack

READ_SIZE = 1 << 20
MAX_DAMAGE = 1000  # entries; a hostile file could make one of every hundred bytes
FREE_HASHING = 1 << 30  # bytes hashed in vain before the search for intact frames is given up
CANDIDATE_COST = 4096  # what looking at one false frame costs, in bytes hashed


class DamageKind(str, Enum):
    TORN = "torn"
    """The file ends inside a frame: the recorder was killed, or the file was cut."""
    CORRUPT = "corrupt"
    """Bytes that are no frame, or a frame whose digest is wrong."""
    CHAIN = "chain"
    """An intact frame that does not follow the one before it: frames were removed or exchanged."""
    REORDERED = "reordered"
    """An intact frame that belongs further ahead; left out."""
    MALFORMED = "malformed"
    """An intact frame whose content is not as the format says; its rest is left out."""
    UNKNOWN = "unknown"
    """A frame of a type that this release does not know; left out."""
    GAP = "gap"
    """The recorder's own word on what it could not write."""
    UNSIGNED = "unsigned"
    """A key should have signed the end of the recording, and did not."""
    UNFINISHED = "unfinished"
    """The recording has no end: what came last may be missing."""
    TRAILING = "trailing"
    """Something follows the end of the recording; left out."""
    UNREADABLE = "unreadable"
    """The file could not be read further: the disk fails."""
    MORE = "more"
    """Further damage is not listed."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that a trace lacks.

    It lies at byte `offset` and takes `length` bytes of the file (0 where nothing is left of
    it). `frames`, `rounds` and `records` count what is missing, None where nobody knows. `after`
    and `before` are the times (ns since boot) of the intact events around it, None where there is
    none.
    """

    kind: DamageKind
    offset: int
    length: int
    detail: str
    frames: int | None = None
    rounds: int | None = None
    records: int | None = None
    after: int | None = None
    before: int | None = None

    def __str__(self) -> str:
        """One line for people, free of control characters."""
        where = f"at byte {self.offset}" + (f" ({self.length} bytes)" if self.length else "")
        counts = (("frames", self.frames), ("rounds", self.rounds), ("records", self.records))
        missing = ", ".join(f"{count} {name}" for name, count in counts if count)
        times = ((self.after, "after"), (self.before, "before"))
        span = " and ".join(f"{word} {time / 1e9:.6f} s" for time, word in times if time is not None)
        return (
            f"{self.kind.value} {where}: {self.detail}"
            + (f"; missing: {missing}" if missing else "")
            + (f"; {span} since boot" if span else "")
        )


class _Window:
    """Forward reading of a stream with a look ahead; works on pipes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self.offset = 0
        self.error = ""

    def peek(self, size: int) -> memoryview:
        """The next `size` bytes, fewer at the end. Release it before the next call."""
        while len(self._buffer) < size:
            try:
                data = self._stream.read(min(READ_SIZE, max(size - len(self._buffer), READ_SIZE // 16)))
            except OSError as error:
                self.error = error.strerror or str(error)
                break
            if not data:
                break
            self._buffer += data
        return memoryview(self._buffer)[:size]

    def advance(self, size: int) -> None:
        del self._buffer[:size]
        self.offset += size

    def seek_mark(self, mark: bytes) -> bool:
        """Advance to the next `mark`, or to the end: False."""
        while True:
            at = self._buffer.find(mark)
            if at >= 0:
                self.advance(at)
                return True
            self.advance(max(0, len(self._buffer) - len(mark) + 1))
            size = len(self._buffer)
            self.peek(size + READ_SIZE).release()
            if len(self._buffer) == size:
                self.advance(size)
                return False


class TraceReader:
    """Reads a trace once, from its beginning to its end.

    `source` is a path, `-` for standard input, or a binary stream. Raises `TraceError`, which does not
    repeat the path, where it is no trace that this release can read. A damaged header can be
    replaced by `header`, that of another file of the same recording.

    Iteration gives the rounds as the source gave them. `damage` lists what is missing, complete
    when the iteration has ended. `rules` are the recorder's, empty where it gave none. `snapshot` is
    what was so where the file begins, for who has not read the files before it. `offset` is the byte
    that is read next, for a progress bar.
    """

    header: TraceHeader
    rules: bytes
    snapshot: tuple[Round, ...]

    def __init__(
        self, source: str | os.PathLike[str] | BinaryIO, *, header: TraceHeader | None = None
    ) -> None:
        self._stream, self._owned = _open(source)
        self._window = _Window(self._stream)
        self.damage: list[Damage] = []
        self.ended: dict[str, Any] | None = None
        self._last_time: int | None = None
        self._last_seq = -1
        self._hashed_in_vain = 0
        self._waiting: Frame | None = None
        self.rules = b""
        self.snapshot = ()
        try:
            self._begin(header)
        except BaseException:
            self.close()
            raise

    @property
    def offset(self) -> int:
        return self._window.offset

    @property
    def mark(self) -> bytes:
        """The recording's random mark, the same in all its files."""
        return self._mark

    @property
    def digest(self) -> bytes:
        """The chain's digest after the last frame that was read."""
        return self._previous

    def close(self) -> None:
        if self._owned:
            self._stream.close()

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Round]:
        for frame in self.frames():
            yield from self.rounds(frame)

    # --- frames ---

    def frames(self) -> Iterator[Frame]:
        """The intact frames after the header and the rules, in order; notes gaps and the end itself."""
        while (frame := self._take()) is not None:
            if self.ended is not None and frame.body.type != FrameType.SIGNATURE:
                self._note(DamageKind.TRAILING, frame.offset, frame.size, "a frame follows the end")
                continue
            kind = frame.body.type
            if kind == FrameType.GAP:
                self._gap(frame)
            elif kind == FrameType.END:
                self._end(frame)
            elif kind == FrameType.ROUNDS:
                self._last_time = frame.body.last_time
            elif kind != FrameType.SIGNATURE:
                self._stray(frame)
                continue
            yield frame
        if self._window.error:
            self._note(DamageKind.UNREADABLE, self.offset, 0, self._window.error)
        if self.ended is None:
            self._note(DamageKind.UNFINISHED, self.offset, 0, "the recording was not closed")

    def _stray(self, frame: Frame) -> None:
        kind = frame.body.type
        if kind in (FrameType.HEADER, FrameType.RULES):
            self._note(DamageKind.MALFORMED, frame.offset, frame.size, "header or rules among the rounds")
        elif kind < OPTIONAL_FRAME:
            self._note(DamageKind.UNKNOWN, frame.offset, frame.size, f"frame of type {kind}")

    def rounds(self, frame: Frame) -> Iterator[Round]:
        """The rounds in a frame from `frames`; none in a frame of another type."""
        if frame.body.type != FrameType.ROUNDS:
            return
        count = 0
        try:
            if not 0 < frame.body.rounds <= MAX_ROUNDS:
                raise TraceError(f"frame claims {frame.body.rounds} rounds")
            for batches in unpack_rounds(expand(frame.body)):
                count += 1
                yield batches
            if count != frame.body.rounds:
                raise TraceError(f"frame holds {count} rounds, its head says {frame.body.rounds}")
        except TraceError as error:
            missing = max(0, frame.body.rounds - count)
            self._note(DamageKind.MALFORMED, frame.offset, frame.size, str(error), rounds=missing)

    def _begin(self, header: TraceHeader | None) -> None:
        """Read all that comes before the first round."""
        view = self._window.peek(PREFIX.size)
        lead = bytes(view)
        view.release()
        self._mark = read_prefix(lead)
        self._window.advance(len(lead))
        self._previous = chain_start(lead)
        frame = self._take()
        if frame is None or frame.seq or frame.body.type != FrameType.HEADER:
            if header is None:
                raise TraceError("trace's header is damaged or missing")
            self.header, self._waiting = header, frame
            return
        self.header = TraceHeader.unpack(expand(frame.body))
        self._waiting = self._take()
        if (frame := self._waiting_for(FrameType.RULES)) is not None:
            try:
                self.rules = expand(frame.body)
            except TraceError as error:
                self._note(DamageKind.MALFORMED, frame.offset, frame.size, f"rules: {error}")
        if (frame := self._waiting_for(FrameType.SNAPSHOT)) is not None:
            try:
                self.snapshot = tuple(unpack_rounds(expand(frame.body)))
            except TraceError as error:
                self._note(DamageKind.MALFORMED, frame.offset, frame.size, f"snapshot: {error}")

    def _waiting_for(self, type: FrameType) -> Frame | None:
        """Take the frame that waits, if it is of this type; the next one waits then."""
        frame = self._waiting
        if frame is None or frame.body.type != type:
            return None
        self._waiting = None
        self._waiting = self._take()
        return frame

    # --- the chain ---

    def _take(self) -> Frame | None:
        """The next intact frame that lies further on in the chain; None at the end."""
        if self._waiting is not None:
            frame, self._waiting = self._waiting, None
            return frame
        while True:
            start, reason = self.offset, ""
            found = self._next()
            if found is None:
                return None
            if isinstance(found, str):
                reason = found
                found = self._resync()
            if self._follow(found, start, reason):
                return found

    def _next(self) -> Frame | str | None:
        """The frame that begins here; a text that says why there is none; None at the end."""
        view = self._window.peek(FRAME_HEAD_SIZE)
        head_bytes = bytes(view)
        view.release()
        if not head_bytes:
            return None
        if head_bytes[: len(self._mark)] != self._mark[: len(head_bytes)]:
            return "no frame begins here"
        try:
            head = read_head(head_bytes)
            frame = self._read_body(head_bytes, head)
        except TraceError as error:
            return str(error)
        self._window.advance(frame.size)
        return frame

    def _read_body(self, head_bytes: bytes, head: FrameHead) -> Frame:
        with self._window.peek(head.size) as whole:
            if len(whole) < head.size:
                raise TraceError(ENDS_INSIDE)
            try:
                return open_frame(head_bytes, head, whole[FRAME_HEAD_SIZE:], self.offset)
            except TraceError:
                self._hashed_in_vain += head.size
                raise

    def _resync(self) -> Frame | None:
        """Search for the next intact frame.

        The mark is random, so only a file made to that end holds it inside frames. The hashing
        that such a file can cost is bounded by its size.
        """
        while True:
            self._window.advance(1)
            if not self._window.seek_mark(self._mark):
                return None
            if self._hashed_in_vain > FREE_HASHING + self.offset:
                self._give_up()
                return None
            frame = self._next()
            if isinstance(frame, Frame):
                return frame
            self._hashed_in_vain += CANDIDATE_COST

    def _give_up(self) -> None:
        start = self.offset
        while size := len(self._window.peek(READ_SIZE)):
            self._window.advance(size)
        self._note(DamageKind.CORRUPT, start, self.offset - start, "too many false frames to search on")

    def _follow(self, frame: Frame | None, start: int, reason: str) -> bool:
        """Check a frame's place in the chain; notes what lies before it. False for one to leave out.

        Bytes from `start` on are no frame where there is a `reason`.
        """
        if frame is None:
            kind = DamageKind.TORN if reason == ENDS_INSIDE else DamageKind.CORRUPT
            self._note(kind, start, self.offset - start, reason)
            return False
        if frame.seq <= self._last_seq:
            self._note(DamageKind.REORDERED, frame.offset, frame.size, f"frame {frame.seq} comes again")
            return False
        missing = frame.seq - self._last_seq - 1
        before = frame.body.first_time if frame.body.type == FrameType.ROUNDS else None
        if reason:
            length = frame.offset - start
            self._note(DamageKind.CORRUPT, start, length, reason, frames=missing, before=before)
        elif missing or frame.previous != self._previous:
            detail = "frames are missing" if missing else "frame belongs behind another one"
            self._note(DamageKind.CHAIN, frame.offset, 0, detail, frames=missing, before=before)
        self._last_seq, self._previous = frame.seq, frame.digest
        return True

    # --- notes ---

    def _gap(self, frame: Frame) -> None:
        try:
            plain = unpack(expand(frame.body))
            reason = plain.get("reason") if isinstance(plain, dict) else None
        except TraceError:
            reason = None
        self._note(
            DamageKind.GAP,
            frame.offset,
            frame.size,
            _printable(reason) if isinstance(reason, str) else "no reason given",
            rounds=frame.body.rounds,
            records=frame.body.records,
        )

    def _end(self, frame: Frame) -> None:
        self.ended = {}
        try:
            plain = unpack(expand(frame.body))
            if not isinstance(plain, dict):
                raise TraceError("end is no map")
            self.ended = plain
        except TraceError as error:
            self._note(DamageKind.MALFORMED, frame.offset, frame.size, str(error))

    def _note(
        self,
        kind: DamageKind,
        offset: int,
        length: int,
        detail: str,
        *,
        frames: int | None = None,
        rounds: int | None = None,
        records: int | None = None,
        before: int | None = None,
    ) -> None:
        if len(self.damage) == MAX_DAMAGE:
            self.damage.append(Damage(DamageKind.MORE, offset, 0, "further damage is not listed"))
        if len(self.damage) <= MAX_DAMAGE:
            after = self._last_time
            self.damage.append(Damage(kind, offset, length, detail, frames, rounds, records, after, before))


_TYPES = frozenset(int(kind) for kind in FrameType)


def _printable(text: str) -> str:
    """At most a line of text from a stranger."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:200])


def _open(source: str | os.PathLike[str] | BinaryIO) -> tuple[BinaryIO, bool]:
    """The stream to read, and whether it is ours to close. Who named it says which cannot be opened."""
    if source == "-":
        return sys.stdin.buffer, False
    if not isinstance(source, (str, os.PathLike)):
        return source, False
    try:
        return Path(source).open("rb"), True
    except OSError as error:
        raise TraceError(_UNOPENED.get(error.errno or 0, error.strerror or str(error))) from None
    except ValueError as error:
        raise TraceError(str(error)) from None


_UNOPENED = {
    errno.ENOENT: "there is no such file",
    errno.EISDIR: "it is a folder: name the traces in it",
    errno.EACCES: "it may not be read: traces are their owner's alone, the daemon's are root's",
}
