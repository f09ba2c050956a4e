"""Finding frames by time, agent and pid without reading what they hold.

The index lies in the trace itself: each frame's head and summary tell what it holds. Building
it reads only these, some 200 bytes of each frame, so it is never stale and can always be had
again. What it says is the frame's own word, unchecked: `read` checks each frame's digest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agentwatch.sources.base import Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import (
    FRAME_HEAD_SIZE,
    PREFIX,
    SYNC_SIZE,
    FrameHead,
    FrameType,
    expand,
    open_frame,
    read_head,
    read_prefix,
    unpack_rounds,
)
from agentwatch.trace.summary import Keys


@dataclass(frozen=True, slots=True)
class Entry:
    """A rounds frame: where it lies, what it holds, its digest. `keys` is None where it does not say."""

    offset: int
    records: int
    first_time: int
    last_time: int
    keys: Keys | None
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Index:
    """The rounds frames of one file, in its order. `indexed` is how many bytes of it they cover.

    Where `indexed` is less than the file's size, it goes on with damage; the reader tells more.
    `closed`: the recording was ended there, not broken off.
    """

    entries: tuple[Entry, ...]
    indexed: int
    size: int
    closed: bool = False

    def select(
        self,
        first: int | None = None,
        last: int | None = None,
        agent: int | None = None,
        pid: int | None = None,
    ) -> Iterator[Entry]:
        """The frames that can hold records from `first` to `last` (ns since boot) of this agent and pid."""
        for entry in self.entries:
            if (first is not None and entry.last_time < first) or (
                last is not None and entry.first_time > last
            ):
                continue
            if entry.keys is None or entry.keys.may_hold(agent, pid):
                yield entry


def build_index(path: str | os.PathLike[str]) -> Index:
    """Step through a file from head to head; raises `TraceError` where it is no trace."""
    try:
        with Path(path).open("rb", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            mark = read_prefix(_at(file, 0, PREFIX.size))
            return _scan(file, mark, size)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None


def _scan(file: BinaryIO, mark: bytes, size: int) -> Index:
    entries = []
    offset, closed = PREFIX.size, False
    while offset < size:
        # Heads and most summaries come with one read.
        data = _at(file, offset, FRAME_HEAD_SIZE + 512)
        try:
            head = _head(data, mark)
        except TraceError:
            break
        if offset + head.size > size:
            break
        if head.body.type == FrameType.ROUNDS:
            end = FRAME_HEAD_SIZE + head.summary_size
            if len(data) < end:
                data = _at(file, offset, end)
            entries.append(_entry(offset, head, data[FRAME_HEAD_SIZE:end]))
        closed |= head.body.type == FrameType.END
        offset += head.size
    return Index(tuple(entries), offset, size, closed)


def _entry(offset: int, head: FrameHead, summary: bytes) -> Entry:
    try:
        keys = Keys.unpack(summary)
    except TraceError:
        keys = None
    return Entry(offset, head.body.records, head.body.first_time, head.body.last_time, keys, head.digest)


def _head(data: bytes, mark: bytes) -> FrameHead:
    if data[:SYNC_SIZE] != mark:
        raise TraceError("no frame begins here")
    return read_head(data[:FRAME_HEAD_SIZE])


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def read(path: str | os.PathLike[str], entries: Iterable[Entry]) -> Iterator[Round]:
    """The rounds of the frames that `entries` name; raises `TraceError` for a frame that is not intact."""
    try:
        with Path(path).open("rb") as file:
            mark = read_prefix(_at(file, 0, PREFIX.size))
            for entry in entries:
                head_bytes = _at(file, entry.offset, FRAME_HEAD_SIZE)
                head = _head(head_bytes, mark)
                rest = memoryview(file.read(head.size - FRAME_HEAD_SIZE))
                yield from unpack_rounds(expand(open_frame(head_bytes, head, rest, entry.offset).body))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
