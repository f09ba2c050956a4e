"""Pages: every line is wrapped to the width, and nothing in it acts on the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agentwatch.tui.top.model import line
from agentwatch.tui.top.page import fitting, wrapped
from tests.tui.top.material import EVIL

ANY_TEXT = st.text(alphabet=st.characters(codec=None, categories=None), max_size=200)


def text_of(row: tuple[tuple[str, str], ...]) -> str:
    return "".join(text for text, _ in row)


@given(ANY_TEXT, ANY_TEXT, st.integers(8, 120))
def test_rows_are_no_wider_than_there_is_room(one: str, other: str, width: int) -> None:
    for row in wrapped(line((one, "bold"), other), width):
        assert cell_len(text_of(row)) <= width
        assert text_of(row).isprintable()


def test_nothing_is_left_out() -> None:
    text = "word " * 40 + "x" * 100
    together = "".join(text_of(row).replace(" ", "") for row in wrapped(line(text), 30))
    assert together == text.replace(" ", "")


def test_an_empty_line_stays_one() -> None:
    assert wrapped(line(), 20) == [()]
    assert wrapped(line(EVIL), 200)[0][0][0].startswith("\\x1b[2J")


def test_each_line_gets_a_row_and_the_first_one_what_is_left() -> None:
    long = "word " * 30
    assert len(fitting([line(long), line("b"), line("c")], 40, 4)) == 4
    rows = fitting([line(long), line("b"), line("c")], 40, 3)
    assert [text_of(row)[:1] for row in rows] == ["w", "b", "c"]
    assert text_of(rows[0]).replace("  ", " ").startswith(long[:60])
