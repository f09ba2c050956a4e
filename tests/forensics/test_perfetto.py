"""Trace events as Perfetto and Chrome take them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from agentwatch.forensics.export import to_perfetto
from tests.forensics.samples import DEMO, incident, recorded

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
