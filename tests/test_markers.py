"""Markers as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.markers import parse


def test_pairs_are_read() -> None:
    assert parse("run=7,episode=3", ",") == {"run": "7", "episode": "3"}
    assert parse("run = 7\n\ntool=sh -c 'a=b, c'\n") == {"run": "7", "tool": "sh -c 'a=b, c'"}
    assert parse("run=") == {"run": ""}


@pytest.mark.parametrize("text", ["run", "=7", "7=run", "a b=c", "x" * 65 + "=1", "a=" + "v" * 257])
def test_what_is_no_marker_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        parse(text)


@given(st.text())
def test_any_text_gives_markers_or_a_reason(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert all(name and len(value) <= 256 for name, value in found.items())
