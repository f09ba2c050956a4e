"""The fuzzing target itself, on its seeds and on what hypothesis makes of them."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.trace_reader import one_input, seeds


def test_seeds(tmp_path: Path) -> None:
    seeds(tmp_path)
    for seed in sorted(tmp_path.iterdir()):
        one_input(seed.read_bytes())


@given(st.integers(1, 6), st.sampled_from([0, 1]), st.binary(max_size=200))
@settings(deadline=None)
def test_frames_of_any_content(type_: int, codec: int, data: bytes) -> None:
    one_input(bytes([type_, codec]) + data)
