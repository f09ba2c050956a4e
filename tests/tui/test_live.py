"""Snapshots travel bounded, plain views say each thing once, keys answer the question."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.tui.live import (
    AlertRow,
    FlowRow,
    LiveView,
    PlainView,
    ProcessRow,
    Prompt,
    Snapshot,
    most_telling,
    open_view,
)

TEXT = st.text(alphabet=st.characters(codec=None, categories=None), max_size=20)
COUNTS = st.integers(0, 1 << 60)
PROCESSES = st.builds(ProcessRow, st.integers(1, 1 << 22), st.integers(0, 50), TEXT, TEXT, st.booleans())
FLOWS = st.builds(
    FlowRow, st.integers(1, 9), TEXT, TEXT, st.integers(0, 1 << 60), st.integers(0, 9), TEXT, TEXT
)
ALERTS = st.builds(AlertRow, TEXT, TEXT, TEXT, TEXT, TEXT, st.none() | st.floats(0, 1e9), st.booleans())
ALERT = AlertRow("09:14:42.123", "high", "Reverse tunnel", "ssh[7] to 10.0.0.1:22", "pause", 180.2)


def snapshots() -> st.SearchStrategy[Snapshot]:
    return st.builds(
        Snapshot,
        agent=TEXT,
        mode=st.just("enforce"),
        state=st.sampled_from(["running", "paused", "ended"]),
        elapsed_s=st.floats(0, 1e6),
        events=COUNTS,
        lost=COUNTS,
        gaps=st.lists(TEXT, max_size=3).map(tuple),
        processes=st.lists(PROCESSES, max_size=9).map(tuple),
        flows=st.lists(FLOWS, max_size=9).map(tuple),
        alerts=st.lists(ALERTS, max_size=9).map(tuple),
        output=st.lists(TEXT, max_size=9).map(tuple),
        more_processes=COUNTS,
        more_flows=COUNTS,
        more_alerts=COUNTS,
        asking=st.booleans(),
    )


@settings(max_examples=30, deadline=None)
@given(snapshots())
def test_snapshot_unpacks_to_itself(snapshot: Snapshot) -> None:
    assert Snapshot.unpack(snapshot.pack()) == snapshot


def test_snapshot_of_anything_fits_one_packet() -> None:
    long = "\U0001f980" * 1000
    snapshot = Snapshot(
        long,
        long,
        "running",
        1.0,
        gaps=(long,) * 1000,
        processes=(ProcessRow(1, 0, long, long),) * 1000,
        flows=(FlowRow(1, long, long, 1, 1, long, long),) * 1000,
        alerts=(AlertRow(long, long, long, long, long),) * 1000,
        output=(long,) * 1000,
    )
    packed = snapshot.pack()
    assert len(packed) <= 160 * 1024
    unpacked = Snapshot.unpack(packed)
    assert unpacked.more_processes == 1000 - len(unpacked.processes)
    assert unpacked.more_flows == 1000 - len(unpacked.flows)
    assert unpacked.more_alerts == 1000 - len(unpacked.alerts)


def test_most_telling_keeps_the_marked_with_ancestors_then_the_living_then_the_shallow() -> None:
    rows = (
        ProcessRow(1, 0, "root", "exit 0"),
        ProcessRow(2, 1, "ended", "exit 0"),
        ProcessRow(3, 1, "shell", "exit 0"),
        ProcessRow(4, 2, "miner", "exit 0", marked=True),
        ProcessRow(5, 1, "alive"),
        ProcessRow(6, 1, "ended later", "exit 0"),
        ProcessRow(7, 2, "ended last, but deeper", "exit 0"),
    )
    assert [row.pid for row in most_telling(rows, 3)] == [1, 3, 4]
    assert [row.pid for row in most_telling(rows, 4)] == [1, 3, 4, 5]
    assert [row.pid for row in most_telling(rows, 5)] == [1, 3, 4, 5, 6]
    assert [row.pid for row in most_telling(rows, 6)] == [1, 2, 3, 4, 5, 6]
    assert most_telling(rows, 7) == rows
    assert most_telling(rows, 0) == ()


@settings(deadline=None)
@given(st.lists(PROCESSES, max_size=30), st.integers(0, 31))
def test_most_telling_is_a_part_in_order(rows: list[ProcessRow], room: int) -> None:
    chosen = most_telling(rows, room)
    assert len(chosen) == min(room, len(rows))
    left = iter(rows)
    assert all(any(row is other for other in left) for row in chosen)


def test_plain_view_says_each_thing_once_and_harmlessly() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    evil = ALERT._replace(title="\x1b[2J\nforged line")
    view.update(Snapshot("demo", "enforce", "running", 1))
    view.update(Snapshot("demo", "enforce", "paused", 2, alerts=(ALERT,)))
    view.update(Snapshot("demo", "enforce", "paused", 3, alerts=(ALERT, evil), lost=2))
    view.close(Snapshot("demo", "enforce", "ended", 4, alerts=(evil,), more_alerts=1, lost=2))
    assert stream.getvalue().splitlines() == [
        "agent demo: running",
        "09:14:42.123 high Reverse tunnel: frozen in 0.18 ms: ssh[7] to 10.0.0.1:22",
        "agent demo: paused",
        "09:14:42.123 high \\x1b[2J\\x0aforged line: frozen in 0.18 ms: ssh[7] to 10.0.0.1:22",
        "evidence is partial: 2 events lost",
        "agent demo: ended",
    ]


def test_nothing_is_drawn_where_nothing_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_view(io.StringIO()), PlainView)
    main, terminal = pty.openpty()
    with os.fdopen(main), os.fdopen(terminal, "w") as stream:
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(open_view(stream), PlainView)


def read_all(descriptor: int) -> bytes:
    """What was written to the other side of a pty, until that is closed (EIO)."""
    data = b""
    while True:
        try:
            data += os.read(descriptor, 65536)
        except OSError:
            return data


def test_live_view_leaves_the_end_state_on_the_ordinary_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    main, terminal = pty.openpty()
    with os.fdopen(main, "rb") as screen:
        with os.fdopen(terminal, "w") as stream:
            view = open_view(stream)
            assert isinstance(view, LiveView)
            view.update(Snapshot("demo", "enforce", "running", 1))
            assert not view.due()
            view.close(Snapshot("demo", "enforce", "ended", 2, alerts=(ALERT,)))
        shown = read_all(screen.fileno()).decode()
    _, _, after = shown.rpartition("\x1b[?1049l")
    assert "ENDED" in after
    assert "Reverse tunnel" in after


def test_live_view_restores_the_terminal_of_a_drawing_that_crashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    main, terminal = pty.openpty()
    with os.fdopen(main, "rb") as screen:
        with os.fdopen(terminal, "w") as stream:
            view = LiveView(stream)
            view._process.kill()
            view._process.wait()
            view.update(Snapshot("demo", "enforce", "running", 1))
            view.close(Snapshot("demo", "enforce", "ended", 2))
        assert read_all(screen.fileno()).endswith(b"\x1b[?1049l\x1b[?25h")


PROMPT = """
import os, select, sys
from agentwatch.tui.live import Prompt
with Prompt() as prompt:
    print("asked", flush=True)
    answer = None
    while answer is None:
        select.select([prompt], [], [])
        answer = prompt.answer()
print("answer", answer, flush=True)
input()
"""


@pytest.fixture
def asked() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that asks on a terminal of its own, and our end of that terminal."""
    main, terminal = pty.openpty()
    os.write(main, b"k")  # typed before the question: no answer
    process = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{PROMPT}"],
        stdin=terminal,
        stdout=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    read_until(main, b"asked")
    yield process, main
    process.kill()
    process.wait()
    os.close(main)


def read_until(descriptor: int, end: bytes) -> bytes:
    data = b""
    while end not in data:
        data += os.read(descriptor, 4096)
    return data


@pytest.mark.parametrize(("keys", "choice"), [(b"r", "resume"), (b"xK", "kill"), (b"\x1b[A?l", "leave")])
def test_one_key_answers_without_echo(
    asked: tuple[subprocess.Popen[bytes], int], keys: bytes, choice: str
) -> None:
    process, main = asked
    os.write(main, keys)
    assert read_until(main, choice.encode()).split() == [b"answer", choice.encode()]
    os.write(main, b"seen\n")  # the settings are back: what is typed shows again
    assert b"seen" in read_until(main, b"seen")
    assert process.wait(10) == 0


def test_prompt_says_so_where_there_is_no_terminal(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Prompt(f"{tmp_path}/nowhere")
    with pytest.raises(OSError, match="null"):
        Prompt("/dev/null")
