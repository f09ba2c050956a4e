"""Frames hold what an operator must see, within the terminal they get."""

from __future__ import annotations

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from agentwatch.tui import live
from agentwatch.tui.frame import frame
from agentwatch.tui.live import AlertRow, FlowRow, ProcessRow, Snapshot
from tests.lab import eventually
from tests.tui.test_live import snapshots

REPOSITORY = Path(live.__file__).parents[2]
EVIL = "\x1b[2J\x1b]0;owned\x07 \u202etxt.exe 日本語🦀 [bold]x[/bold]\n" + "A" * 300
SNAPSHOT = Snapshot(
    "demo",
    "enforce",
    "paused",
    75.0,
    events=12345,
    lost=3,
    gaps=("payload over io_uring is not covered",),
    processes=(
        ProcessRow(100, 0, "python3 -m agent"),
        *(ProcessRow(101 + n, 1 + n % 3, f"git clone {n}", "exit 0") for n in range(30)),
        ProcessRow(200, 1, EVIL),
        ProcessRow(201, 2, "ssh -N -R 9000:127.0.0.1:22 host", marked=True),
    ),
    flows=(
        FlowRow(100, "http", "10.77.1.2:80", 120, 2100, ended="closed"),
        FlowRow(201, "ssh", "10.77.3.2:22", 4200, 3900, EVIL, marked=True),
    ),
    alerts=(
        AlertRow("09:00:01.000", "high", "Reverse tunnel", "ssh[201] to 10.77.3.2:22", "pause", 180.2),
        AlertRow("09:00:02.000", "critical", "Mining", EVIL, "none", complete=False),
    ),
    output=("one", EVIL),
    asking=True,
)


def draw(snapshot: Snapshot, width: int, height: int, final: bool = False) -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO(), color_system=None)
    console.print(frame(snapshot, width, height, final=final))
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_what_matters_is_on_the_screen(width: int, height: int) -> None:
    lines = draw(SNAPSHOT, width, height)
    text = "\n".join(lines)
    assert len(lines) == height
    for words in ("PAUSED", "enforce", "01:15", "12,345 events", "3 lost", "io_uring"):
        assert words in "\n".join(lines[:2])
    assert "  frozen in 0.18 ms: ssh[201] to 10.77.3.2:22" in text
    assert "  alert only, partial evidence: " in text
    assert "!     201" in text
    assert "10.77.3.2:22" in text
    assert text.index("Mining") < text.index("Reverse tunnel")
    assert "r resume   k kill" in lines[-1]


@settings(max_examples=30, deadline=None)
@given(snapshots(), st.integers(1, 200), st.integers(1, 60), st.booleans())
def test_any_snapshot_fits_any_terminal(snapshot: Snapshot, width: int, height: int, final: bool) -> None:
    lines = draw(snapshot, width, height, final)
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    assert all(character == " " or character.isprintable() for line in lines for character in line)


def test_hostile_strings_stay_text() -> None:
    text = "\n".join(draw(SNAPSHOT, 160, 50))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b[2J" in text
    assert "[bold]x[/bold]" in text


def test_long_lists_say_how_much_they_hide() -> None:
    text = "\n".join(draw(SNAPSHOT._replace(more_flows=7), 80, 24))
    assert "and 26 more" in text
    assert "and 7 more" in text


def test_use_of_gpus_stands_in_the_head_and_before_the_command() -> None:
    rows = (ProcessRow(100, 0, "python3 train.py", gpu="gpu 97 % 8.1 GB"),)
    lines = draw(SNAPSHOT._replace(processes=rows, gpu="gpu 97 % 9.9 GB"), 100, 30)
    assert "gpu 97 % 9.9 GB" in lines[0]
    assert "100 [gpu 97 % 8.1 GB] python3 train.py" in "\n".join(lines)


def test_end_state_asks_nothing_and_wastes_nothing() -> None:
    lines = draw(SNAPSHOT._replace(asking=False, output=("one",)), 80, 50, final=True)
    assert lines[-1].rstrip() == "one"


TMUX_PROGRAM = """
import sys, time
from agentwatch.tui.live import open_view
from tests.tui.test_frame import SNAPSHOT
view = open_view(sys.stderr)
while True:
    view.update(SNAPSHOT); time.sleep(0.1)
"""


class Tmux:
    """A terminal of a given size that runs `code`."""

    def __init__(self, width: int, height: int, code: str) -> None:
        self._command = ["tmux", "-L", f"agentwatch-{uuid.uuid4().hex}", "-f", "/dev/null"]
        self._call("new-session", "-d", "-c", str(REPOSITORY), sys.executable, "-c", code)
        self._call("set-option", "status", "off")
        self.resize(width, height)

    def _call(self, *arguments: str) -> str:
        return subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=True).stdout

    def screen(self) -> str:
        return self._call("capture-pane", "-p")

    def resize(self, width: int, height: int) -> None:
        self._call("resize-window", "-x", str(width), "-y", str(height))

    def close(self) -> None:
        self._call("kill-server")


@pytest.fixture
def terminal() -> Iterator[Tmux]:
    tmux = Tmux(80, 24, TMUX_PROGRAM)
    yield tmux
    tmux.close()


def test_real_terminal_shows_the_frame_and_follows_its_size(terminal: Tmux) -> None:
    eventually(lambda: "r resume" in terminal.screen())
    shown = [line.rstrip() for line in terminal.screen().splitlines()]
    expected = [line.rstrip() for line in draw(SNAPSHOT, 80, 24)]
    assert shown == expected
    terminal.resize(140, 30)
    eventually(
        lambda: (
            [line.rstrip() for line in terminal.screen().splitlines()]
            == [line.rstrip() for line in draw(SNAPSHOT, 140, 30)]
        )
    )
