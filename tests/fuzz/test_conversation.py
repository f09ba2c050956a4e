"""The fuzzing target itself, on its seeds and on what hypothesis makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.conversation import one_input, seeds

SEEDS = seeds()


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds(seed: bytes) -> None:
    one_input(seed)


@given(st.sampled_from(SEEDS), st.integers(0, 3000), st.binary(min_size=1, max_size=6), st.integers(0, 8))
@settings(deadline=None)
def test_changed_seeds(seed: bytes, at: int, change: bytes, kind: int) -> None:
    at %= len(seed)
    one_input(bytes([kind]) + seed[1:at] + change + seed[at + len(change) :])


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes(data: bytes) -> None:
    one_input(data)
