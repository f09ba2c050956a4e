"""Columns that fit, texts that stay in their cells and do nothing to the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agentwatch.tui.top.model import Column
from agentwatch.tui.top.rows import fitted, layout
from tests.tui.top.material import EVIL

ANY_TEXT = st.text(alphabet=st.characters(codec=None, categories=None), max_size=80)
COLUMNS = (
    Column("AGENT", 8, grow=2),
    Column("STATE", 7),
    Column("CPU", 5, rank=2),
    Column("LAST", 20, grow=5, rank=1),
)


@given(st.integers(0, 300))
def test_columns_fit_or_only_the_needed_ones_are_left(width: int) -> None:
    found = layout(COLUMNS, width)
    total = sum(cells for _, cells in found) + len(found) - 1
    if len(found) > 2:
        assert total <= width
    assert [place for place, _ in found[:2]] == [0, 1]
    if width > 60:
        assert total == width


def test_the_least_important_columns_go_first() -> None:
    assert [place for place, _ in layout(COLUMNS, 43)] == [0, 1, 2, 3]
    assert [place for place, _ in layout(COLUMNS, 40)] == [0, 1, 3]
    assert [place for place, _ in layout(COLUMNS, 20)] == [0, 1]


@given(ANY_TEXT, st.integers(0, 60), st.booleans())
def test_a_cell_is_as_wide_as_it_is_and_harmless(text: str, width: int, right: bool) -> None:
    cell = fitted(text, width, right=right)
    assert cell_len(cell) == width
    assert cell.isprintable()


def test_hostile_text_is_seen_as_what_it_is() -> None:
    cell = fitted(EVIL, 60)
    assert "\x1b" not in cell and "\u202e" not in cell
    assert cell.startswith("\\x1b[2J\\x1b]0;owned\\x07\\u202etxt [bold]x[/bold]")
