"""MessagePack from strangers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.trace.error import TraceError
from agentwatch.trace.pack import MAX_DEPTH, Cursor, pack, unpack

_scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
_plain = st.recursive(
    _scalars | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_plain)
def test_plain_data_comes_back(value: object) -> None:
    assert unpack(pack(value)) == value


@given(_plain, st.binary(max_size=8))
def test_skip_ends_where_the_value_does(value: object, rest: bytes) -> None:
    data = pack(value)
    cursor = Cursor(data + rest)
    cursor.skip()
    assert cursor.pos == len(data)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65535, 65536])
def test_every_width_of_length_is_skipped(size: int) -> None:
    for value in (b"x" * size, "x" * size, [None] * size, msgpack.ExtType(5, b"x" * size)):
        data = pack(value)
        cursor = Cursor(data)
        cursor.skip()
        assert cursor.at_end


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_a_trace_error(data: bytes) -> None:
    for read in (Cursor.array, Cursor.uint, Cursor.blob, Cursor.skip):
        _try(read, data)
    with contextlib.suppress(TraceError):
        unpack(data)


def _try(read: Callable[[Cursor], object], data: bytes) -> None:
    cursor = Cursor(data)
    try:
        read(cursor)
    except TraceError:
        return
    assert 0 < cursor.pos <= len(data)


def test_claims_of_billions_are_refused_without_allocating() -> None:
    for claim in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
    ):
        with pytest.raises(TraceError):
            unpack(claim)


def test_many_small_objects_are_refused() -> None:
    with pytest.raises(TraceError, match="too many"):
        unpack(b"\xdd\x00\x04\x00\x00" + b"\x90" * (1 << 18))


def test_deep_nesting_is_refused() -> None:
    unpack(b"\x91" * (MAX_DEPTH - 1) + b"\xc0")
    with pytest.raises(TraceError, match="too deep"):
        unpack(b"\x91" * 5000 + b"\xc0")


def test_what_follows_a_value_is_refused() -> None:
    with pytest.raises(TraceError, match="followed"):
        unpack(b"\x01\x02")


def test_maps_have_no_keys_that_could_be_made_to_collide() -> None:
    with pytest.raises(TraceError):
        unpack(b"\x81\x01\x01")


def test_names_that_are_no_text_survive() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert unpack(pack({"host": name})) == {"host": name}
