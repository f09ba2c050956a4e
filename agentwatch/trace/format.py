"""The trace format, version 1: what `docs/trace-format.md` says, as code.

A trace is a prefix and frames. This module knows one frame at a time; the order of frames
is the reader's and the writer's business.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, ClassVar, TypeGuard

import zstandard

from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.pack import Cursor, pack, unpack

VERSION = 1
MAGIC = b"\x89AWT\r\n\x1a\n"
PREFIX = struct.Struct("<8sII8s")  # magic, version, zero, sync
SYNC_SIZE = 8

MAX_PLAIN = 64 << 20  # bytes of one frame's payload, decompressed
MAX_STORED = MAX_PLAIN + (MAX_PLAIN >> 7)  # zstd grows what it cannot compress by less than 1/128
MAX_META = 4 << 20  # bytes of a decompressed header, gap, signature or end frame
MAX_ROUNDS = 1 << 16
MAX_BATCHES = 64
MAX_KEYS = 1024  # agents or pids that one frame's summary lists

RING_HEADER_SIZE = 8
RING_BUSY = 1 << 31  # include/uapi/linux/bpf.h: BPF_RINGBUF_BUSY_BIT
RING_DISCARDED = 1 << 30  # BPF_RINGBUF_DISCARD_BIT
SLOT_SIZE = 128


def size_of(batches: Round) -> int:
    """Bytes of a round's data."""
    size = 0
    for batch in batches:  # a generator would cost the event path three times as much
        size += len(batch.data)
    return size


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the fields lie that every record of a ring has: (offset, size) in bytes.

    Offsets count from the record's ring header. `time` is in ns since boot, `agent` the
    number the kernel side gave the agent, `pid` the thread group's. Sizes are 1, 2, 4 or 8.
    """

    time: tuple[int, int]
    agent: tuple[int, int]
    pid: tuple[int, int]

    def __post_init__(self) -> None:
        end = RING_HEADER_SIZE
        for offset, size in sorted((self.time, self.agent, self.pid)):
            if offset < end or size not in (1, 2, 4, 8) or offset + size > SLOT_SIZE:
                raise TraceError(f"field at {offset} of {size} bytes does not fit the layout of a record")
            end = offset + size


class FrameType(IntEnum):
    """Types of frames. A reader ignores unknown ones from 128 on and reports unknown ones below."""

    HEADER = 1
    RULES = 2
    ROUNDS = 3
    GAP = 4
    SIGNATURE = 5
    END = 6
    SNAPSHOT = 128


OPTIONAL_FRAME = 128
ENDS_INSIDE = "file ends inside a frame"


class Codec(IntEnum):
    PLAIN = 0
    ZSTD = 1


# --- the header --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """What a trace says of where it was taken. All of it is the recorder's word.

    `clock_offset` is CLOCK_REALTIME minus CLOCK_BOOTTIME in ns at the start: event times are
    of the boot clock. `created` is CLOCK_REALTIME in ns. `schema` is the schema of the records
    as plain data; `layouts` its part that the trace itself needs. `segment` counts the files
    of one recording; `previous` is the last digest of the segment before.
    """

    schema_version: int
    schema: Mapping[str, Any]
    layouts: Mapping[BatchKind, Layout]
    boot_id: str
    clock_offset: int
    kernel: str
    host: str
    release: str
    created: int
    coverage: Mapping[str, Any] = field(default_factory=dict)
    rules_digest: str = ""
    mode: str = "monitor"
    agents: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    byte_order: str = sys.byteorder
    public_key: bytes = b""
    segment: int = 0
    previous: bytes = b""
    extra: Mapping[str, Any] = field(default_factory=dict)

    _TYPES: ClassVar[dict[str, type | tuple[type, ...]]] = {
        **dict.fromkeys(("schema_version", "clock_offset", "created", "segment"), int),
        **dict.fromkeys(("boot_id", "kernel", "host", "release", "rules_digest", "mode"), str),
        **dict.fromkeys(("schema", "layouts", "coverage", "extra"), dict),
        **dict.fromkeys(("agents", "command"), list),
        **dict.fromkeys(("public_key", "previous"), bytes),
        "byte_order": str,
    }

    @property
    def users(self) -> dict[int, str]:
        """Names of the recorder's users by their number, as far as it told them."""
        told = self.extra.get("users")
        if not isinstance(told, dict):
            return {}
        numbers = {str(uid): str(name) for uid, name in told.items()}
        return {int(uid): name for uid, name in numbers.items() if uid.isdecimal() and len(uid) <= 10}

    @property
    def training(self) -> tuple[str, ...]:
        """Paths of what the operator named as the training job."""
        told = self.extra.get("training")
        return tuple(map(str, told)) if isinstance(told, (list, tuple)) else ()

    @property
    def is_excerpt(self) -> bool:
        """Whether records were left out or put in: what tells of another by its number tells a wrong one."""
        return not self.extra.keys().isdisjoint(("incident", "cut", "merge", "resumed"))

    def pack(self) -> bytes:
        """The payload of the header frame: a map of the fields, layouts by the kind's number."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["layouts"] = {
            str(int(kind)): [at.time, at.agent, at.pid] for kind, at in sorted(self.layouts.items())
        }
        return pack(plain)

    @classmethod
    def unpack(cls, data: bytes) -> TraceHeader:
        """Read `pack`'s bytes from a stranger; unknown fields are left out."""
        plain = unpack(data)
        if not isinstance(plain, dict):
            raise TraceError("header is no map")
        for name, kind in cls._TYPES.items():
            if not isinstance(plain.get(name), kind):
                raise TraceError(f"header's field {name} is missing or of a wrong type")
        for name in ("agents", "command"):
            if not all(isinstance(item, str) for item in plain[name]):
                raise TraceError(f"header's field {name} holds other things than text")
            plain[name] = tuple(plain[name])
        if plain["byte_order"] not in ("little", "big"):
            raise TraceError("header's byte order is neither little nor big")
        plain["layouts"] = dict(map(_layout, plain["layouts"].items()))
        return cls(**{name: plain[name] for name in cls._TYPES})


def _layout(item: tuple[object, object]) -> tuple[BatchKind, Layout]:
    kind, where = item
    numbers = [n for pair in where for n in pair] if _is_pairs(where) else []
    if kind not in _LAYOUT_KINDS or len(numbers) != 6 or not all(type(n) is int for n in numbers):
        raise TraceError("header's layouts are not as the format says")
    time, agent, pid = zip(numbers[::2], numbers[1::2], strict=True)
    return _LAYOUT_KINDS[kind], Layout(time, agent, pid)


def _is_pairs(value: object) -> TypeGuard[list[list[Any]]]:
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


_LAYOUT_KINDS: dict[object, BatchKind] = {str(int(kind)): kind for kind in BatchKind}


# --- frames ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Body:
    """A frame without its place in the chain."""

    type: int
    payload: bytes
    plain_size: int
    codec: int = Codec.PLAIN
    summary: bytes = b""
    records: int = 0
    rounds: int = 0
    first_time: int = 0
    last_time: int = 0


_HEAD = struct.Struct("<8sBBHIIIIIQQQ32s")
_DIGEST = struct.Struct("<32s")
FRAME_HEAD_SIZE = _HEAD.size + _DIGEST.size


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it lies in a file at byte `offset`, `size` bytes long; its digest was checked."""

    offset: int
    size: int
    seq: int
    previous: bytes
    digest: bytes
    body: Body


@dataclass(frozen=True, slots=True)
class FrameHead:
    """The fixed part of a frame: enough to step over it."""

    seq: int
    previous: bytes
    digest: bytes
    summary_size: int
    stored_size: int
    body: Body
    """Without summary and payload."""

    @property
    def size(self) -> int:
        return FRAME_HEAD_SIZE + self.summary_size + self.stored_size


def prefix(sync: bytes) -> bytes:
    return PREFIX.pack(MAGIC, VERSION, 0, sync)


def chain_start(lead: bytes) -> bytes:
    """What a trace's first frame has for its predecessor's digest: the SHA-256 of the prefix."""
    return hashlib.sha256(lead).digest()


def read_prefix(data: bytes) -> bytes:
    """The sync bytes of the trace that begins with `data`; `TraceError` where it is none of ours."""
    if not data:
        raise TraceError("trace is empty: its recorder ended before it wrote anything")
    if data[: len(MAGIC)] != MAGIC:
        raise TraceError("not an agentwatch trace")
    if len(data) < PREFIX.size:
        raise TraceError("trace ends inside its first bytes")
    _, version, zero, sync = PREFIX.unpack_from(data)
    if version != VERSION:
        raise TraceError(f"trace has format version {version}; this release reads version {VERSION}")
    if zero:
        raise TraceError("trace's first bytes are damaged")
    return bytes(sync)


def seal(body: Body, sync: bytes, seq: int, previous: bytes) -> tuple[bytes, bytes]:
    """The bytes of a frame at its place in the chain, and its digest."""
    head = _HEAD.pack(
        sync,
        body.type,
        body.codec,
        len(body.summary),
        len(body.payload),
        body.plain_size,
        body.records,
        body.rounds,
        0,
        seq,
        body.first_time,
        body.last_time,
        previous,
    )
    digest = frame_digest(head, body.summary, body.payload)
    return b"".join((head, digest, body.summary, body.payload)), digest


def frame_digest(head: bytes, *rest: bytes | memoryview) -> bytes:
    """SHA-256 over a frame but for the digest itself, which lies after the first 88 bytes."""
    sha = hashlib.sha256(head[: _HEAD.size])
    for part in rest:
        sha.update(part)
    return sha.digest()


def read_head(data: bytes) -> FrameHead:
    """Read a frame's fixed part; raises `TraceError` where no writer could have written it."""
    if len(data) < FRAME_HEAD_SIZE:
        raise TraceError(ENDS_INSIDE)
    (_, type_, codec, summary, stored, plain, records, rounds, zero, seq, first, last, previous) = (
        _HEAD.unpack_from(data)
    )
    if zero or stored > MAX_STORED or plain > MAX_PLAIN:
        raise TraceError("frame claims an absurd size")
    digest = data[_HEAD.size : FRAME_HEAD_SIZE]
    body = Body(type_, b"", plain, codec, b"", records, rounds, first, last)
    return FrameHead(seq, previous, digest, summary, stored, body)


def open_frame(head_bytes: bytes, head: FrameHead, rest: memoryview, offset: int) -> Frame:
    """A frame of its fixed part and what follows it; raises `TraceError` where its digest is wrong."""
    summary, payload = rest[: head.summary_size], rest[head.summary_size :]
    if frame_digest(head_bytes, summary, payload) != head.digest:
        raise TraceError("frame's digest is wrong")
    body = replace(head.body, summary=bytes(summary), payload=bytes(payload))
    return Frame(offset, head.size, head.seq, head.previous, head.digest, body)


_LARGE = (FrameType.ROUNDS, FrameType.RULES, FrameType.SNAPSHOT)


def expand(body: Body) -> bytes:
    """A frame's payload as it was before compression; nothing is allocated beyond what its head claims."""
    limit = MAX_PLAIN if body.type in _LARGE else MAX_META
    if body.plain_size > limit:
        raise TraceError(f"frame claims {body.plain_size} bytes, its type allows {limit}")
    if body.codec == Codec.PLAIN:
        plain = body.payload
    elif body.codec == Codec.ZSTD:
        plain = _decompress(body.payload, body.plain_size)
    else:
        raise TraceError(f"frame is compressed in an unknown way ({body.codec})")
    if len(plain) != body.plain_size:
        raise TraceError("frame's payload is not as long as its head says")
    return plain


def _decompress(payload: bytes, size: int) -> bytes:
    # zstandard allocates what the payload claims, whatever limit it is given: compare first.
    try:
        if zstandard.frame_content_size(payload) != size:
            raise TraceError("compressed payload claims another size than its frame")
        return bytes(zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False))
    except zstandard.ZstdError as error:
        raise TraceError(f"payload cannot be decompressed: {error}") from None


# --- rounds ------------------------------------------------------------------------------------


def pack_rounds(rounds: Sequence[Round]) -> bytes:
    """The plain payload of a rounds frame: an array of rounds, each an array of `[kind, bytes]`."""
    return pack([[(int(batch.kind), batch.data) for batch in batches] for batches in rounds])


def unpack_rounds(plain: bytes) -> Iterator[Round]:
    """Read `pack_rounds`'s bytes from a stranger, one round at a time.

    Raises `TraceError` at the first byte that is not as the format says, a kind that this
    version does not know included: leaving a batch out would fold something that never was.
    """
    cursor = Cursor(plain)
    for _ in range(_count(cursor, MAX_ROUNDS)):
        yield tuple([_batch(cursor) for _ in range(_count(cursor, MAX_BATCHES))])
    if not cursor.at_end:
        raise TraceError("rounds are followed by other bytes")


def _count(cursor: Cursor, limit: int) -> int:
    count = cursor.array()
    if not 0 < count <= limit:
        raise TraceError(f"{count} rounds or batches where 1 to {limit} are allowed")
    return count


def _batch(cursor: Cursor) -> Batch:
    if cursor.array() != 2:
        raise TraceError("batch is no pair")
    kind = cursor.uint()
    if kind not in _KINDS:
        raise TraceError(f"batch of unknown kind {kind}")
    return Batch(_KINDS[kind], cursor.blob())


_KINDS = {int(kind): kind for kind in BatchKind}
