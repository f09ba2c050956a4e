"""The lines around every screen: what must be read first has room, whatever the width."""

from __future__ import annotations

from rich.cells import cell_len

from agentwatch.tui.top.lines import rule_line, status_line
from agentwatch.tui.top.model import Line
from agentwatch.tui.top.poll import Look

GAP = {"probe": "files", "cost": "renames are known by their path", "error": "no hook"}
STATUS = {"lost": {}, "coverage": [GAP, GAP]}


def text(line: Line) -> str:
    return "".join(span for span, _ in line)


def test_what_gaps_cost_is_told_where_all_of_it_has_room() -> None:
    look = Look({"status": STATUS})
    narrow, wide = (text(status_line(look, "", width)) for width in (80, 200))
    assert narrow == "nothing lost   NOT SEEN: 2 gaps in coverage, 8 tells them"
    assert wide == f"{narrow}: {GAP['cost']}; {GAP['cost']}"


def test_losses_and_gaps_fit_into_eighty_cells() -> None:
    look = Look({"status": {**STATUS, "lost": {"exec": 12_345}}})
    line = text(status_line(look, "", 80))
    assert line.startswith("LOST 12,345 events (12,345 exec)   NOT SEEN: 2 gaps in coverage")
    assert cell_len(line) <= 80


def test_without_a_daemon_it_says_how_old_what_is_shown_is() -> None:
    look = Look({"status": STATUS}, error="no daemon answers at /run/x", gone=True)
    assert "NO DAEMON: this is of 03:00:00 UTC. Asking again." in text(status_line(look, "03:00:00", 80))
    assert "NO DAEMON: nothing is known." in text(status_line(look, "", 80))


def test_the_key_that_drops_a_filter_stands_before_the_filter() -> None:
    assert "filter (esc: none) Image: x" in text(rule_line(None, "Image: " + "x" * 200, "", 80))
