"""One table of keys: what is bound, shown, told and documented is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentwatch.tui.top import keys
from agentwatch.tui.top.app import SCREENS, Top

ALL = keys.available(may_act=True, may_save=True, replay=False)
DOCUMENT = Path(__file__).parents[3] / "docs" / "top.md"


def test_every_key_does_something_and_there_is_one_for_every_screen() -> None:
    for key in keys.KEYS:
        assert hasattr(Top, f"action_{key.action.partition('(')[0]}"), key
    assert tuple(SCREENS) == keys.SCREENS
    assert len({key.press for key in keys.KEYS}) == len(keys.KEYS)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_footer_fits_and_ends_with_help_and_quit(width: int) -> None:
    shown = keys.footer(ALL, width)
    assert sum(len(key) + len(label) + 3 for key, label in shown) <= max(width, 20)
    assert [key for key, _ in shown][-2:] == ["?", "q"]


def test_at_80_cells_the_footer_has_what_stops_an_agent() -> None:
    labels = [label for _, label in keys.footer(ALL, 80)]
    assert {"pause", "resume", "kill", "explain"} <= set(labels)


def test_who_may_only_read_sees_no_key_that_acts() -> None:
    shown = keys.available(may_act=False, may_save=True, replay=False)
    assert {key.action for key in ALL} - {key.action for key in shown} == {"pause", "resume", "kill", "save"}


def test_save_is_offered_only_where_the_daemon_knows_it() -> None:
    shown = keys.available(may_act=True, may_save=False, replay=False)
    assert {key.action for key in ALL} - {key.action for key in shown} == {"save"}


def test_a_recording_has_keys_of_its_own() -> None:
    shown = {key.press for key in keys.available(may_act=True, may_save=True, replay=True)}
    assert {"full_stop", "comma", "t"} <= shown
    assert not {"p", "r", "K", "w"} & shown


def test_the_documentation_has_the_table() -> None:
    assert keys.markdown() in DOCUMENT.read_text(encoding="utf-8")


def test_the_manual_page_names_every_key_and_starts_no_line_with_a_request() -> None:
    lines = keys.manual().splitlines()
    assert all(line.startswith((".SH", ".TP", ".B ")) for line in lines if line.startswith("."))
    assert lines.count(".TP") == len([key for key in keys.KEYS if key.help])
