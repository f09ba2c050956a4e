"""Frames, headers and rounds as bytes."""

from __future__ import annotations

import contextlib

import msgpack  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import (
    MAX_META,
    MAX_PLAIN,
    MAX_ROUNDS,
    Body,
    Codec,
    FrameType,
    TraceHeader,
    expand,
    pack_rounds,
    read_head,
    read_prefix,
    unpack_rounds,
)
from agentwatch.trace.pack import pack, unpack
from tests.trace.samples import MARK, frames, header, header_body, rounds, trace

_batches = st.builds(Batch, st.sampled_from(BatchKind), st.binary(max_size=300))
_rounds = st.lists(st.lists(_batches, min_size=1, max_size=4).map(tuple), min_size=1, max_size=8)


def test_a_header_comes_back() -> None:
    made = header(segment=3, previous=b"p" * 32, public_key=b"k" * 32, extra={"users": {"0": "root"}})
    assert TraceHeader.unpack(made.pack()) == made


def test_fields_of_a_later_release_are_left_out() -> None:
    plain = unpack(header().pack())
    assert TraceHeader.unpack(pack({**plain, "later": 1})) == header()


@pytest.mark.parametrize("name", list(unpack(header().pack())))
def test_a_field_that_is_missing_or_of_a_wrong_type_is_named(name: str) -> None:
    plain = unpack(header().pack())
    for broken in ({**plain, name: 1.5}, {key: value for key, value in plain.items() if key != name}):
        with pytest.raises(TraceError, match=name):
            TraceHeader.unpack(pack(broken))


@pytest.mark.parametrize(
    "layouts",
    [
        {"1": []},
        {"1": [[8, 8], [20, 4], [24]]},
        {"1": [[8, 8], [20, 4], ["24", 4]]},
        {"9": [[8, 8], [20, 4], [24, 4]]},
    ],
)
def test_layouts_that_are_none_are_refused(layouts: object) -> None:
    with pytest.raises(TraceError):
        TraceHeader.unpack(pack({**unpack(header().pack()), "layouts": layouts}))


@given(_rounds)
def test_rounds_come_back(made: list[Round]) -> None:
    assert list(unpack_rounds(pack_rounds(made))) == made


@given(st.binary(max_size=100))
def test_no_bytes_of_rounds_raise_anything_but_a_trace_error(data: bytes) -> None:
    try:
        for batches in unpack_rounds(data):
            assert batches
    except TraceError:
        pass


@pytest.mark.parametrize(
    ("plain", "why"),
    [
        ([], "0 rounds"),
        ([[]], "0 rounds or batches"),
        ([[[1, b""]] * 65], "65 rounds or batches"),
        ([[[1]]], "no pair"),
        ([[[4, b""]]], "unknown kind 4"),
        ([[[1, "text"]]], "bytes were due"),
        ([[[-1, b""]]], "unsigned"),
    ],
)
def test_rounds_that_are_none_are_refused(plain: object, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        list(unpack_rounds(msgpack.packb(plain)))


def test_absurd_numbers_of_rounds_are_refused() -> None:
    with pytest.raises(TraceError, match=str(MAX_ROUNDS + 1)):
        next(iter(unpack_rounds(msgpack.packb([[]] * (MAX_ROUNDS + 1)))))


def _body(plain_size: int, payload: bytes, codec: int = Codec.ZSTD, type: int = FrameType.ROUNDS) -> Body:
    return Body(type, payload, plain_size, codec)


def test_payloads_expand_to_what_their_frame_says_and_no_more() -> None:
    bomb = zstandard.compress(bytes(1 << 20))
    assert expand(_body(1 << 20, bomb)) == bytes(1 << 20)
    with pytest.raises(TraceError, match="another size"):
        expand(_body(100, bomb))


def test_payloads_that_hide_their_size_are_refused() -> None:
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(TraceError, match="another size"):
        expand(_body(1 << 20, hidden))


def test_two_payloads_in_one_are_refused() -> None:
    with pytest.raises(TraceError, match="cannot be decompressed"):
        expand(_body(4, zstandard.compress(b"abcd") + zstandard.compress(b"efgh")))


@pytest.mark.parametrize("type", [FrameType.HEADER, FrameType.GAP, FrameType.END, FrameType.SIGNATURE])
def test_small_frames_may_not_grow_large(type: FrameType) -> None:
    plain = bytes(MAX_META + 1)
    with pytest.raises(TraceError, match="allows"):
        expand(_body(len(plain), zstandard.compress(plain), type=type))


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(TraceError, match=r"unknown way \(7\)"):
        expand(_body(1, b"x", codec=7))


@given(st.integers(0, 100), st.binary(max_size=100), st.sampled_from(Codec))
def test_no_payload_raises_anything_but_a_trace_error(size: int, payload: bytes, codec: Codec) -> None:
    with contextlib.suppress(TraceError):
        assert len(expand(_body(size, payload, codec))) == size


def test_heads_that_claim_absurd_sizes_are_refused() -> None:
    frame = bytearray(frames(header_body())[1])
    read_head(bytes(frame))
    for at in (12, 16):  # stored and plain size
        broken = frame.copy()
        broken[at : at + 4] = (2 * MAX_PLAIN).to_bytes(4, "little")
        with pytest.raises(TraceError, match="absurd"):
            read_head(bytes(broken))


def test_prefixes() -> None:
    data = trace()
    assert read_prefix(data) == MARK
    with pytest.raises(TraceError, match="not an agentwatch trace"):
        read_prefix(b"\x7fELF" + data[4:])
    with pytest.raises(TraceError, match="version 2"):
        read_prefix(data[:8] + b"\x02" + data[9:])
    for cut in range(24):
        with pytest.raises(TraceError):
            read_prefix(data[:cut])


def test_samples_hold_every_kind() -> None:
    assert {batch.kind for batches in rounds(10) for batch in batches} == set(BatchKind)
