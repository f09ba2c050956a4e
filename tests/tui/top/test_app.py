"""The application, driven by keys over a real recording: every screen, what is opened, said and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from agentwatch.tui.top import keys
from agentwatch.tui.top.app import Arrived, Top
from agentwatch.tui.top.page import Page
from agentwatch.tui.top.poll import Look
from agentwatch.tui.top.recorded import Recorded
from agentwatch.tui.top.rows import Rows
from tests.tui.top.material import EVENTS, trace

Drive = Callable[[Pilot[None]], Awaitable[None]]
SIZES = [(80, 24), (200, 60)]


def screen(pilot: Pilot[None]) -> str:
    """The lines that a person would see."""
    width, height = pilot.app.size
    buffer = [[" "] * width for _ in range(height)]
    lines = pilot.app.screen._compositor.render_strips()
    for y, strip in enumerate(lines[:height]):
        buffer[y] = list(strip.text)
    return "\n".join("".join(row).rstrip() for row in buffer)


async def until(pilot: Pilot[None], *texts: str) -> str:
    """Wait until all of these are in sight."""
    for _ in range(400):
        seen = screen(pilot)
        if all(text in seen for text in texts):
            return seen
        await pilot.pause(0.02)
    pytest.fail(f"{texts} not in sight:\n{screen(pilot)}")


async def type_in(pilot: Pilot[None], text: str) -> None:
    """Type into the line that asks."""
    pilot.app.query_one(Input).value = text
    await pilot.press("enter")


def drive(path: Path, steps: Drive, size: tuple[int, int] = SIZES[0], *, readonly: bool = False) -> None:
    async def main() -> None:
        backend = Recorded((path,))
        app = Top(backend, readonly=readonly)
        async with app.run_test(size=size) as pilot:
            await until(pilot, f"event {EVENTS} of {EVENTS}", "tester")
            await steps(pilot)
        backend.close()

    asyncio.run(main())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace(tmp_path_factory.mktemp("top"))


@pytest.mark.parametrize("size", SIZES)
def test_every_screen_has_its_key_and_says_what_is_missing(recording: Path, size: tuple[int, int]) -> None:
    expected = {
        "agents": ("tester", "FROZEN", "LAST ALERT", "Mines"),
        "processes": ("mine --fast", "train.py again"),
        "flows": ("stratum", "127.0.0.1:3333"),
        "alerts": ("critical", "Mines", "Connects", "frozen"),
        "events": ("process_creation", "network_connection"),
        "gpu": ("No GPU is seen",),
        "files": ("No watched file was touched",),
        "health": ("7 exec events of tester", "io_uring is not seen"),
    }
    assert tuple(expected) == keys.SCREENS

    async def steps(pilot: Pilot[None]) -> None:
        for number, texts in enumerate(expected.values(), 1):
            await pilot.press(str(number))
            seen = await until(pilot, *texts)
            assert "LOST 7 events" in seen
            assert "NOT SEEN: 1 gap in coverage" in seen
            assert seen.splitlines()[-1].rstrip().endswith("q quit")
            assert all(len(line) <= size[0] for line in seen.splitlines())

    drive(recording, steps, size)


def test_names_that_an_enemy_chose_do_nothing(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        for key in "2345":
            await pilot.press(key)
            await pilot.pause(0.3)
            seen = screen(pilot)
            assert "\x1b" not in seen and "\u202e" not in seen
            if key == "2":
                assert "\\x1b[2J\\x1b]0;owned\\x07\\u202etxt [bold]x" in seen
        await pilot.press("3")
        await until(pilot, "stratum")
        await pilot.press("down")
        await pilot.press("enter")
        seen = await until(pilot, "as text", "mining.subscribe")
        assert "\x1b" not in seen
        assert "\\x1b[2J\\x00\\xff" in seen

    drive(recording, steps, (200, 60))


def test_enter_looks_into_an_agent_and_escape_leads_back(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await until(pilot, "only agent tester, esc: all", "mine --fast")
        await pilot.press("enter")
        await until(pilot, "arguments, one a line")
        await pilot.press("escape")
        await until(pilot, "only agent tester")
        await pilot.press("escape")
        seen = await until(pilot, "LAST ALERT")
        assert "only agent" not in seen

    drive(recording, steps)


def test_an_alert_is_explained_from_its_agent_and_from_its_row(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("e")
        await until(pilot, "words: CommandLine contains 'mine'", "matched 'mine --fast'")
        await pilot.press("escape", "4")
        await until(pilot, "Connects")
        await pilot.press("down", "e")
        await until(pilot, "port: DestinationPort", "matched '3333'")

    drive(recording, steps)


def test_a_filter_shows_what_passes_and_says_what_is_wrong(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await until(pilot, "network_connection")
        await pilot.press("f")
        await type_in(pilot, "CommandLine|contains: fast and Category: process_creation")
        seen = await until(pilot, "row 1 of 1")
        assert "network_connection" not in seen
        await pilot.press("escape")
        await until(pilot, f"row 1 of {EVENTS}")
        await pilot.press("f")
        await type_in(pilot, "Comand: x")
        await until(pilot, "there is no field Comand here; perhaps CommandLine")

    drive(recording, steps)


def test_a_search_moves_from_row_to_row(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await until(pilot, "network_connection")
        await pilot.press("slash")
        await type_in(pilot, "TRAIN")
        await until(pilot, f"row {EVENTS} of {EVENTS}")
        await pilot.press("n")
        await until(pilot, f"row 1 of {EVENTS}")
        await pilot.press("N")
        await until(pilot, f"row {EVENTS} of {EVENTS}")
        await pilot.press("slash")
        await type_in(pilot, "nowhere")
        await until(pilot, "No row has 'nowhere'.")

    drive(recording, steps)


def test_a_recording_is_stepped_through_and_sought_in(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("comma", "comma", "comma")
        await until(pilot, f"event {EVENTS - 3} of")
        await pilot.press("full_stop")
        await until(pilot, f"event {EVENTS - 2} of")
        await pilot.press("less_than_sign")
        await until(pilot, "event 3 of", "  1 alert")
        await pilot.press("less_than_sign")
        await until(pilot, "There is no alert before this.")
        await pilot.press("greater_than_sign")
        await until(pilot, "event 6 of", "FROZEN")
        await pilot.press("t")
        await type_in(pilot, "1")
        await until(pilot, "event 2 of", "0 alerts")
        await pilot.press("t")
        await type_in(pilot, "soon")
        await until(pilot, "neither RFC 3339")
        await pilot.press("colon")
        await type_in(pilot, "seek 100 %")
        await until(pilot, f"event {EVENTS} of")

    drive(recording, steps)


def test_over_a_recording_no_key_acts(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("p", "K", "r", "w")
        await pilot.pause(0.2)
        seen = screen(pilot)
        assert "KILL" not in seen and "Freeze" not in seen
        assert "pause" not in seen.splitlines()[-1]

    drive(recording, steps)


def test_help_tells_every_key(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        await until(pilot, "to the next event", "FROZEN")

    drive(recording, steps, (200, 60))


def test_a_command_that_is_none_lists_those_there_are(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("colon")
        await type_in(pilot, "dance")
        await until(pilot, "There is no command dance. Commands: agent NAME")
        await pilot.press("colon")
        await type_in(pilot, "health")
        await until(pilot, "7 exec events of tester")
        await pilot.press("colon")
        await type_in(pilot, "agent tester")
        await until(pilot, "only agent tester")
        await pilot.press("colon")
        await type_in(pilot, "agent nobody")
        await until(pilot, "There is no agent nobody.")

    drive(recording, steps)


def test_the_cursor_stays_on_its_row_when_others_come(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await until(pilot, f"row 1 of {EVENTS}")
        await pilot.press("comma", "comma")
        await until(pilot, f"row 1 of {EVENTS - 2}")
        await pilot.press("down", "down")
        await until(pilot, f"row 3 of {EVENTS - 2}")
        before = pilot.app.query_one(Rows).selected
        await pilot.press("full_stop", "full_stop")
        await until(pilot, f"row 5 of {EVENTS}")
        after = pilot.app.query_one(Rows).selected
        assert before is not None and after is not None and before.key == after.key

    drive(recording, steps)


def test_another_size_is_drawn_for(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.resize_terminal(40, 12)
        seen = await until(pilot, "tester", "FROZEN")
        assert all(len(line) <= 40 for line in seen.splitlines())
        await pilot.press("question_mark")
        await until(pilot, "keys")
        assert pilot.app.query_one(Page).display
        await pilot.resize_terminal(120, 30)
        await until(pilot, "look into the selected row: an agent's processes")

    drive(recording, steps)


def test_a_look_that_comes_when_it_ends_is_let_go(recording: Path) -> None:
    ended: list[Top] = []

    async def steps(pilot: Pilot[None]) -> None:
        assert isinstance(pilot.app, Top)
        ended.append(pilot.app)

    drive(recording, steps)
    ended[0].on_arrived(Arrived(Look(error="too late")))


def test_what_was_done_by_hand_is_not_said_to_be_a_rules(recording: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        app = pilot.app
        assert isinstance(app, Top)
        app._did("kill", {"agent": "tester", "processes": 0})
        (agent,) = app._look.answers["agents"]  # as it is shown until the next look
        assert (agent["state"], agent["acted_by"], agent["processes"]) == ("killed", "you", 0)

    drive(recording, steps)
