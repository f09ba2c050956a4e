"""Trace events as Perfetto and Chrome take them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.forensics import perfetto
from agentwatch.forensics.export import to_perfetto
from tests.forensics import samples
from tests.forensics.samples import DEMO, incident, recorded
from tests.recordings import BEGAN, SECOND

PROCESSOR = shutil.which("trace_processor_shell")

REQUIRED = {"X": ("ts", "dur", "name"), "i": ("ts", "s", "name"), "M": ("name", "args"), "b": ("id", "cat"),
            "e": ("id", "cat"), "s": ("id", "ts"), "f": ("id", "ts", "bp")}  # fmt: skip


def events(*paths: Path) -> list[dict[str, Any]]:
    file = io.BytesIO()
    for _ in to_perfetto([(path,) for path in paths], file.write):
        pass
    document = json.loads(file.getvalue())
    assert isinstance(document["traceEvents"], list)
    return list(document["traceEvents"])


def test_every_event_has_what_its_phase_needs() -> None:
    for event in events(DEMO):
        for name in ("ph", "pid", "tid", *REQUIRED[event["ph"]]):
            assert name in event, event
        assert event.get("dur", 0) >= 0


def test_processes_are_tracks_and_programs_slices(tmp_path: Path) -> None:
    found = events(recorded(tmp_path, incident()))
    names = {e["pid"]: e["args"]["name"] for e in found if e["name"] == "process_name"}
    assert set(names.values()) == {"python3 [100] demo", "bash [101] demo", "curl [102] demo"}
    slices = {e["name"]: e for e in found if e["ph"] == "X" and e["cat"] == "program"}
    process = next(e for e in found if e["name"] == "process" and e["pid"] == slices["curl"]["pid"])
    assert process["ts"] <= slices["curl"]["ts"]
    assert slices["curl"]["ts"] + slices["curl"]["dur"] <= process["ts"] + process["dur"] + 0.001
    (alert,) = (e for e in found if e.get("cat") == "alert")
    assert names[alert["pid"]].startswith("curl")


@pytest.mark.parametrize("uptime", [0, 10**13 + 1, 2 * 10**16 + 3])
def test_slices_of_a_track_nest_as_a_reader_sees_them(
    uptime: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of doubles cuts off to nanoseconds, as Perfetto's does, and drops what overlaps."""
    monkeypatch.setattr(samples, "at", lambda number: BEGAN + uptime + int(number * SECOND) + int(number * 7))
    tracks: dict[int, list[tuple[int, int]]] = {}
    for event in events(recorded(tmp_path, incident())):
        if event["ph"] == "X":
            begin = int(event["ts"] * 1000)
            tracks.setdefault(event["pid"], []).append((begin, begin + int(event["dur"] * 1000)))
    assert len(tracks) == 3
    for slices in tracks.values():
        open_until: list[int] = []
        for begin, end in sorted(slices, key=lambda one: (one[0], -one[1])):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


@given(st.integers(0, 10**17), st.integers(0, 10**15))
def test_moments_keep_their_order_and_their_nanoseconds(time: int, more: int) -> None:
    seen = [int(perfetto._micro(one) * 1000) for one in (time, time + more)]
    assert seen[0] <= seen[1]
    assert abs(seen[0] - time) <= time >> 52
    assert int(perfetto._lasts(time, time + more) * 1000) == seen[1] - seen[0]


@pytest.mark.skipif(PROCESSOR is None, reason="Perfetto's trace_processor_shell is not installed")
def test_perfetto_takes_it_without_an_error(tmp_path: Path) -> None:
    path, query = tmp_path / "demo.json", tmp_path / "query.sql"
    path.write_text(json.dumps({"traceEvents": events(DEMO)}))
    query.write_text("SELECT name, value FROM stats WHERE severity <> 'info' AND value > 0;")
    done = subprocess.run([str(PROCESSOR), "-q", query, path], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) <= 1, done.stdout  # the names of the columns


def test_flows_begin_and_end_and_forks_have_two_ends() -> None:
    found = events(DEMO)
    for first, last in (("b", "e"), ("s", "f")):
        assert sorted(e["id"] for e in found if e["ph"] == first) == sorted(
            e["id"] for e in found if e["ph"] == last
        )


def test_several_recordings_share_no_track(tmp_path: Path) -> None:
    one = recorded(tmp_path, incident())
    alone = {event["pid"] for event in events(one)}
    both = {event["pid"] for event in events(one, DEMO)}
    assert len(both) == len(alone) + len({event["pid"] for event in events(DEMO)})
    assert events(tmp_path / "missing", one)


def test_no_string_acts_on_a_page(tmp_path: Path) -> None:
    text = json.dumps(events(recorded(tmp_path, incident())), ensure_ascii=False)
    assert "\x1b" not in text and "\u202e" not in text
