"""How long a literal a pattern is sure to contain is told well enough to choose guards by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.rules.literals import certain_literal


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("needle", 6),
        (r"\bneedle\s", 6),
        (r"a\.b", 3),
        ("nee(?:dle|d)", 4),
        ("(?:needle)?hay", 3),
        ("needle|hay", 3),
        ("(?i)needle", 6),
        ("needle?", 5),
        ("needles*", 6),
        ("(?:needle){0,2}", 0),
        ("needle{2}", 6),
        ("[needle]+", 0),
        ("[]needle]x", 1),
        ("nee[d]le", 3),
        (r"\S+\s", 0),
        ("(?:a|)needle", 6),
        ("", 0),
        ("(" * 5000 + "needle" + ")" * 5000, 0),
    ],
)
def test_the_literal_that_is_certain(pattern: str, length: int) -> None:
    assert certain_literal(pattern) == length


@given(st.text("ab|()[]{}*?+\\.^$:i0,<>", max_size=30))
def test_anything_has_a_length(pattern: str) -> None:
    assert 0 <= certain_literal(pattern) <= len(pattern)
