"""The fuzzer finds what hides behind several conditions."""

from __future__ import annotations

import pytest

from tests.fuzz.lines import fuzz


def _target(data: bytes) -> None:
    if data[:1] != b"\xff":
        return
    if data[1:2] != b"\xc1":
        return
    if data[2:3] != b"\xdd":
        return
    raise LookupError("found")


def test_it_is_guided_by_lines() -> None:
    with pytest.raises(LookupError, match="found"):
        fuzz(_target, [b"abcdef"], "test_lines", seconds=60, seed=1)
