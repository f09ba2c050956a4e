"""Reading what is whole, damaged, unfinished or hostile."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.sources.base import Round
from agentwatch.trace import format
from agentwatch.trace import reader as module
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import OPTIONAL_FRAME, Codec, FrameType, seal
from agentwatch.trace.pack import pack
from agentwatch.trace.reader import DamageKind, TraceReader
from tests.trace.samples import (
    MARK,
    end_body,
    frames,
    header,
    header_body,
    plain_body,
    read,
    rounds,
    rounds_body,
    trace,
)

ROUNDS = rounds(12)
PARTS = [ROUNDS[n : n + 3] for n in range(0, 12, 3)]
BODIES = [rounds_body(part) for part in PARTS]
PIECES = frames(header_body(), *BODIES, end_body(ROUNDS))
WHOLE = b"".join(PIECES)
STARTS = [0, *itertools.accumulate(len(piece) for piece in PIECES)]
FIRST, END = 2, 6  # numbers of the pieces that are the first rounds frame and the end


def _join(parts: list[list[Round]]) -> list[Round]:
    return [batches for part in parts for batches in part]


def test_a_whole_trace_comes_back() -> None:
    with TraceReader(io.BytesIO(WHOLE)) as reader:
        assert reader.header == header()
        assert list(reader) == ROUNDS
        assert reader.damage == []
        assert reader.ended is not None
        assert reader.offset == len(WHOLE)


def test_rules_come_back() -> None:
    data = trace(plain_body(FrameType.RULES, b"title: x\n"), *BODIES, end_body(ROUNDS))
    reader = TraceReader(io.BytesIO(data))
    assert reader.rules == b"title: x\n"
    assert list(reader) == ROUNDS and not reader.damage


def test_standard_input_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    path.write_bytes(WHOLE)
    with TraceReader(path) as reader:
        assert list(reader) == ROUNDS
    code = "from agentwatch.trace.reader import TraceReader as T; t = T('-'); print(len(list(t)), t.damage)"
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], input=WHOLE, capture_output=True, env=environment, check=True
    )
    assert done.stdout == b"12 []\n"


def test_why_something_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"^there is no such file$"):
        TraceReader(tmp_path / "gone.awt")
    with pytest.raises(TraceError, match="a folder"):
        TraceReader(tmp_path)
    with pytest.raises(TraceError):
        TraceReader("nul\0byte")
    with pytest.raises(TraceError, match="empty"):
        TraceReader(io.BytesIO(b""))
    with pytest.raises(TraceError, match="not an agentwatch trace"):
        TraceReader(io.BytesIO(b"PK"))


def test_cut_at_every_byte_it_loses_only_the_frame_that_was_cut() -> None:
    for cut in range(STARTS[FIRST], len(WHOLE)):
        got, damage = read(WHOLE[:cut])
        whole_frames = sum(end <= cut for end in STARTS[FIRST + 1 : END + 1])
        assert got == _join(PARTS[:whole_frames])
        kinds = [item.kind for item in damage]
        if cut in STARTS:
            assert kinds == [DamageKind.UNFINISHED]
        else:
            assert kinds == [DamageKind.TORN, DamageKind.UNFINISHED]
            begin = max(start for start in STARTS if start < cut)
            assert (damage[0].offset, damage[0].length) == (begin, cut - begin)


def test_cut_inside_the_header_it_says_so() -> None:
    for cut in range(STARTS[FIRST]):
        with pytest.raises(TraceError):
            TraceReader(io.BytesIO(WHOLE[:cut]))


def test_one_changed_byte_loses_only_its_frame() -> None:
    for at in range(STARTS[FIRST + 1], STARTS[FIRST + 2]):
        broken = bytearray(WHOLE)
        broken[at] ^= 0x10
        got, damage = read(bytes(broken))
        assert got == _join([PARTS[0], *PARTS[2:]])
        (item,) = damage
        assert item.kind is DamageKind.CORRUPT and item.frames == 1
        assert (item.offset, item.length) == (STARTS[FIRST + 1], len(PIECES[FIRST + 1]))
        assert item.after == BODIES[0].last_time and item.before == BODIES[2].first_time


def test_bytes_between_frames_lose_nothing() -> None:
    got, damage = read(WHOLE[: STARTS[4]] + bytes(5000) + WHOLE[STARTS[4] :])
    assert got == ROUNDS
    assert [(item.kind, item.length, item.frames) for item in damage] == [(DamageKind.CORRUPT, 5000, 0)]


def test_a_tail_of_zeros_is_corrupt() -> None:
    got, damage = read(WHOLE[: STARTS[END]] + bytes(4096))
    assert got == ROUNDS
    assert [item.kind for item in damage] == [DamageKind.CORRUPT, DamageKind.UNFINISHED]


def test_a_removed_frame_breaks_the_chain() -> None:
    got, damage = read(WHOLE[: STARTS[3]] + WHOLE[STARTS[4] :])
    assert got == _join([PARTS[0], *PARTS[2:]])
    assert [(item.kind, item.frames) for item in damage] == [(DamageKind.CHAIN, 1)]


def test_an_exchanged_frame_breaks_the_chain_twice() -> None:
    other = rounds_body(rounds(3, seed=9))
    forged, _ = seal(other, MARK, 2, bytes(32))
    got, damage = read(b"".join([*PIECES[:3], forged, *PIECES[4:]]))
    assert got == _join([PARTS[0], rounds(3, seed=9), *PARTS[2:]])
    assert [(item.kind, item.frames) for item in damage] == [(DamageKind.CHAIN, 0)] * 2


def test_repeated_and_reordered_frames_are_left_out() -> None:
    pieces = [*PIECES[:4], PIECES[2], PIECES[4], PIECES[3], *PIECES[5:]]
    got, damage = read(b"".join(pieces))
    assert got == ROUNDS
    assert [item.kind for item in damage] == [DamageKind.REORDERED] * 2


def test_a_ring_of_frames_ends() -> None:
    got, damage = read(WHOLE[: STARTS[END]] + b"".join(PIECES[2:END]) * 50 + PIECES[END])
    assert got == ROUNDS
    assert len(damage) == 200 and {item.kind for item in damage} == {DamageKind.REORDERED}


def test_frames_of_another_recording_are_none() -> None:
    foreign, _ = seal(BODIES[0], b"otherone", 5, bytes(32))
    got, damage = read(b"".join([*PIECES[:END], foreign, PIECES[END]]))
    assert got == ROUNDS
    assert [(item.kind, item.length) for item in damage] == [(DamageKind.CORRUPT, len(foreign))]


def test_unknown_frames_are_named_and_optional_ones_ignored() -> None:
    unknown, optional = plain_body(77, b"x"), plain_body(OPTIONAL_FRAME + 5, b"x")
    got, damage = read(trace(BODIES[0], unknown, optional, BODIES[1], end_body(_join(PARTS[:2]))))
    assert got == _join(PARTS[:2])
    assert [(item.kind, item.detail) for item in damage] == [(DamageKind.UNKNOWN, "frame of type 77")]


def test_a_gap_tells_what_the_recorder_lost() -> None:
    payload = pack({"reason": "the disk did not keep up", "bytes": 999})
    gap = replace(plain_body(FrameType.GAP, payload), rounds=4, records=70)
    got, damage = read(trace(BODIES[0], gap, BODIES[1], end_body(_join(PARTS[:2]))))
    assert got == _join(PARTS[:2])
    (item,) = damage
    assert (item.kind, item.rounds, item.records) == (DamageKind.GAP, 4, 70)
    assert item.detail == "the disk did not keep up"


@pytest.mark.parametrize("payload", [b"", b"\xc1", pack([1]), pack({"reason": 5})])
def test_a_gap_without_a_reason_is_one_too(payload: bytes) -> None:
    _, damage = read(trace(plain_body(FrameType.GAP, payload)))
    assert [item.kind for item in damage] == [DamageKind.GAP, DamageKind.UNFINISHED]


def test_a_stranger_s_reason_is_one_printable_line() -> None:
    payload = pack({"reason": "\x1b[2J\nroot# " + "x" * 5000})
    _, damage = read(trace(plain_body(FrameType.GAP, payload)))
    assert str(damage[0]).isprintable() and len(str(damage[0])) < 400


def test_damage_is_told_in_words() -> None:
    broken = bytearray(WHOLE)
    broken[STARTS[3] + 150] ^= 1
    _, (item,) = read(bytes(broken))
    assert str(item) == (
        f"corrupt at byte {STARTS[3]} ({len(PIECES[3])} bytes): frame's digest is wrong; missing: 1 frames; "
        f"after {BODIES[0].last_time / 1e9:.6f} s and before {BODIES[2].first_time / 1e9:.6f} s since boot"
    )


def test_a_disk_that_cannot_be_read_further() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(min(size or 0, STARTS[4] - self.tell()))
            if not data:
                raise OSError(5, "Input/output error")
            return data

    reader = TraceReader(Failing(WHOLE))
    assert list(reader) == _join(PARTS[:2])
    assert [item.kind for item in reader.damage] == [DamageKind.UNREADABLE, DamageKind.UNFINISHED]


def test_nothing_counts_after_the_end() -> None:
    got, damage = read(trace(BODIES[0], end_body(PARTS[0]), BODIES[1]))
    assert got == PARTS[0]
    assert [item.kind for item in damage] == [DamageKind.TRAILING]


@pytest.mark.parametrize(
    "body",
    [
        replace(BODIES[1], rounds=2),
        replace(BODIES[1], rounds=4),
        replace(BODIES[1], rounds=0),
        replace(BODIES[1], rounds=1 << 20),
        replace(BODIES[1], plain_size=5),
        replace(BODIES[1], payload=b"junk"),
        replace(BODIES[1], codec=9),
        replace(BODIES[1], codec=Codec.PLAIN, payload=b"\x91\x91\x92\x09\xc4\x00", plain_size=6),
    ],
)
def test_malformed_frames_are_told_and_the_next_is_read(body: object) -> None:
    assert isinstance(body, type(BODIES[1]))
    got, damage = read(trace(BODIES[0], body, BODIES[2]))
    assert got[:3] == PARTS[0] and got[-3:] == PARTS[2]
    assert [item.kind for item in damage] == [DamageKind.MALFORMED, DamageKind.UNFINISHED]


def test_a_header_that_is_damaged_can_be_lent() -> None:
    broken = bytearray(WHOLE)
    broken[STARTS[1] + 200] ^= 1
    with pytest.raises(TraceError, match="header is damaged"):
        TraceReader(io.BytesIO(broken))
    reader = TraceReader(io.BytesIO(broken), header=header())
    assert list(reader) == ROUNDS
    assert [(item.kind, item.frames) for item in reader.damage] == [(DamageKind.CORRUPT, 1)]


def test_the_list_of_damage_is_bounded() -> None:
    _, damage = read(WHOLE[: STARTS[END]] + PIECES[2] * 3000)
    assert len(damage) == module.MAX_DAMAGE + 1
    assert damage[-1].kind is DamageKind.MORE


def test_bombs_take_no_memory() -> None:
    size = 1 << 30
    block = zstandard.ZstdCompressor().compressobj(size=size)
    bomb = b"".join([*(block.compress(bytes(1 << 20)) for _ in range(1 << 10)), block.flush()])
    claims = [replace(BODIES[0], payload=bomb, plain_size=plain) for plain in (1000, (64 << 20))]
    tracemalloc.start()
    try:
        got, damage = read(trace(*claims, BODIES[1]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got == PARTS[1]
    assert [item.kind for item in damage[:2]] == [DamageKind.MALFORMED] * 2
    assert peak < 32 << 20


def test_false_frames_cost_a_bounded_amount_of_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that each claim the rest of the file, every one with a wrong digest."""
    monkeypatch.setattr(module, "FREE_HASHING", 1 << 20)
    hashed = 0
    real = format.frame_digest

    def counting(head: bytes, *rest: bytes | memoryview) -> bytes:
        nonlocal hashed
        hashed += sum(map(len, rest))
        return real(head, *rest)

    monkeypatch.setattr(format, "frame_digest", counting)
    heads = 3000
    false = bytearray(seal(replace(BODIES[0], summary=b"", payload=b""), MARK, 9, bytes(32))[0])
    false[12:16] = (heads // 2 * 120).to_bytes(4, "little")
    got, damage = read(WHOLE[: STARTS[END]] + bytes(false) * heads)
    assert got == ROUNDS
    assert damage[0].kind is DamageKind.CORRUPT
    assert "too many false frames" in damage[0].detail
    assert hashed < (2 << 20) + 3 * len(WHOLE) + 2 * heads * 120


_edits = st.lists(
    st.tuples(st.sampled_from("xdi"), st.integers(0, len(WHOLE)), st.binary(min_size=1, max_size=40)),
    max_size=4,
)


@given(_edits)
@settings(max_examples=300, deadline=None)
def test_whatever_happens_to_a_file_what_is_read_is_what_was_written(
    edits: list[tuple[str, int, bytes]],
) -> None:
    """Bytes exchanged, deleted and inserted anywhere: a subsequence of the rounds, or a clear error."""
    data = bytearray(WHOLE)
    for what, at, junk in edits:
        after = at if what == "i" else at + len(junk)
        data[at:after] = b"" if what == "d" else junk
    try:
        got, damage = read(bytes(data))
    except TraceError:
        return
    left = iter(ROUNDS)
    assert all(batches in left for batches in got)
    assert damage or got == ROUNDS


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_trace_error(junk: bytes) -> None:
    for data in (junk, WHOLE[:24] + junk, WHOLE[: STARTS[2]] + junk):
        try:
            read(data)
        except TraceError:
            continue


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80), st.sampled_from([0, 1, 2])), max_size=6)
)
def test_intact_frames_of_any_content_are_taken(parts: list[tuple[int, bytes, int]]) -> None:
    bodies = [replace(plain_body(type, payload), codec=codec, rounds=1) for type, payload, codec in parts]
    got, damage = read(trace(*bodies, BODIES[0]))
    ended = any(type == FrameType.END for type, _, _ in parts)
    assert ended or got[-3:] == PARTS[0]
    assert damage


def test_rules_that_cannot_be_expanded_are_damage() -> None:
    rules = replace(plain_body(FrameType.RULES, b"junk"), codec=Codec.ZSTD)
    reader = TraceReader(io.BytesIO(trace(rules, BODIES[0], end_body(PARTS[0]))))
    assert reader.rules == b""
    assert list(reader) == PARTS[0]
    assert [item.kind for item in reader.damage] == [DamageKind.MALFORMED]


def test_a_header_or_rules_among_the_rounds_are_left_out() -> None:
    strays = header_body(), plain_body(FrameType.RULES, b"other rules")
    got, damage = read(trace(BODIES[0], *strays, BODIES[1], end_body(_join(PARTS[:2]))))
    assert got == _join(PARTS[:2])
    assert [item.kind for item in damage] == [DamageKind.MALFORMED] * 2


def test_many_marks_that_begin_no_frame_cost_a_bounded_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark of zeros lets every byte of a run of zeros look like the beginning of a frame."""
    monkeypatch.setattr(module, "FREE_HASHING", 1 << 20)
    looked = 0
    real = format.read_head

    def counting(data: bytes) -> format.FrameHead:
        nonlocal looked
        looked += 1
        return real(data)

    monkeypatch.setattr(module, "read_head", counting)
    lead = format.prefix(bytes(8))
    head, _ = seal(header_body(), bytes(8), 0, format.chain_start(lead))
    for filler in (bytes(1 << 20), (bytes(8) + b"\xff" * 24) * (1 << 15)):
        looked = 0
        got, damage = read(lead + head + filler)
        assert got == [] and looked < 1000
        assert "too many false frames" in damage[0].detail
