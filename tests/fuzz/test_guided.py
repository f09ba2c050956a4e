"""The fuzzer finds its way, and the same way twice."""

from __future__ import annotations

import pytest

from tests.fuzz.guided import fuzz


def _fragile(data: bytes) -> None:
    if data[:1] != b"b":
        return
    if data[1:2] != b"u":
        return
    if data[2:3] != b"g":
        return
    raise ZeroDivisionError


def test_a_mistake_behind_several_conditions_is_found() -> None:
    with pytest.raises(AssertionError, match="input 627567") as found:
        fuzz(_fragile, [b"aaa"], __name__, runs=200_000)
    assert isinstance(found.value.__cause__, ZeroDivisionError)


def test_the_same_seeds_give_the_same_inputs() -> None:
    runs: list[list[bytes]] = [[], []]
    for inputs in runs:
        fuzz(inputs.append, [b"one", b"two"], __name__, runs=50)
    assert runs[0] == runs[1] and runs[0][:2] == [b"one", b"two"]
