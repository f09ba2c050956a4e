"""A recording answers at any point of it what a daemon would have answered then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.replay import Order
from agentwatch.schema.events import Type
from agentwatch.trace.past import Past
from agentwatch.trace.store import Rotation, segment_path
from agentwatch.tui.top.backend import BackendError
from agentwatch.tui.top.recorded import Recorded
from tests.recordings import SECOND, connections, record, rules_for
from tests.rules.helpers import rule, rules
from tests.tui.top.material import EVENTS, HELLO, LOST, MINER, at, notes, run, trace


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded((trace(tmp_path),))
    made.connect()
    yield made
    made.close()


def categories(recording: Recorded) -> list[str]:
    return [event["category"] for event in recording.ask("recent")["events"]]


def test_at_its_end_all_is_told(recording: Recorded) -> None:
    (agent,) = recording.ask("agents")
    assert (agent["name"], agent["state"], agent["acted_by"]) == ("tester", "paused", "rule Mines")
    assert agent["lost"] == LOST
    status = recording.ask("status")
    assert (status["events"], status["alerts"]) == (EVENTS, 2)
    assert status["coverage"] == [{"probe": "io_uring", "error": "no hook", "cost": "io_uring is not seen"}]
    assert bytes.fromhex(recording.ask("flow", flow="101")["head_out"]) == HELLO
    timeline = recording.timeline
    assert timeline is not None
    assert (timeline.position, timeline.total) == (EVENTS, EVENTS)
    assert [(mark.position, mark.level) for mark in timeline.marks] == [(3, "low"), (6, "critical")]


def test_it_steps_from_event_to_event_in_both_directions(recording: Recorded) -> None:
    whole = categories(recording)
    for position in [*range(1, EVENTS + 1), *range(EVENTS, 0, -1), 3, 5, 2]:
        recording.seek(position)
        assert categories(recording) == whole[:position]
        assert recording.timeline is not None and recording.timeline.position == position


def test_an_alert_is_there_from_its_mark_on(recording: Recorded) -> None:
    assert recording.timeline is not None
    for mark, alerts in zip(recording.timeline.marks, (1, 2), strict=True):
        recording.seek(mark.position)
        assert len(recording.ask("alerts")["alerts"]) == alerts
        recording.seek(mark.position - 1)
        assert len(recording.ask("alerts")["alerts"]) == alerts - 1
    recording.seek(EVENTS)
    assert recording.ask("agents")[0]["state"] == "paused"
    recording.seek(2)
    assert recording.ask("agents")[0]["state"] == "running"


def test_a_position_beyond_the_ends_is_the_end(recording: Recorded) -> None:
    for wanted, found in ((-5, 1), (1 << 40, EVENTS)):
        recording.seek(wanted)
        assert recording.timeline is not None and recording.timeline.position == found


def test_a_time_is_a_position(recording: Recorded) -> None:
    assert recording.timeline is not None
    began = recording.timeline.began
    assert recording.position_at("0") == 1
    assert recording.position_at("1.5") == 2
    assert recording.position_at("100 %") == EVENTS
    assert recording.position_at("2023-11-14T22:15:02Z") == 2
    assert began % SECOND == 0
    with pytest.raises(ValueError, match="neither RFC 3339"):
        recording.position_at("noon")


def test_nothing_is_acted_on(recording: Recorded) -> None:
    with pytest.raises(BackendError, match="this is a recording"):
        recording.act("kill", agent="tester")
    with pytest.raises(BackendError, match="not for here"):
        recording.ask("kill", agent="tester")


def test_other_rules_say_something_else(tmp_path: Path) -> None:
    path = record(tmp_path / "t.trace", connections(3, port=1), rules_for(tmp_path, 1))
    made = Recorded((path,), Order(rules_for(tmp_path, 2)))
    made.connect()
    assert made.ask("alerts")["alerts"] == []
    assert made.ask("status")["events"] == 3
    made.close()


def test_what_is_no_trace_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"nothing of the kind")
    made = Recorded((path,))
    with pytest.raises(BackendError, match="not an agentwatch trace"):
        made.connect()
    made.close()


def test_damage_is_said(tmp_path: Path) -> None:
    whole = trace(tmp_path).read_bytes()
    path = tmp_path / "torn.trace"
    path.write_bytes(whole[:-40])
    made = Recorded((path,))
    made.connect()
    assert "torn" in made.ask("status")["remarks"][0]
    made.close()


def test_a_recording_without_events_has_a_timeline(tmp_path: Path) -> None:
    made = Recorded((record(tmp_path / "t.trace", connections(0), rules_for(tmp_path)),))
    made.connect()
    made.seek(1)
    assert made.timeline is not None and (made.timeline.position, made.timeline.total) == (0, 0)
    assert made.ask("agents")[0]["name"] == "demo"
    made.close()


def test_what_a_later_file_tells_of_before_is_seen_and_may_raise_alerts(tmp_path: Path) -> None:
    condition = "tunnel:\n  Behaviour: remote_forward\ncondition: tunnel"
    tunnels = rules(rule(condition, f"title: Tunnels\nid: {MINER}", category="flow"))
    told = [notes((int(Type.AGENT), at(0), 1, 0, 0, "tester", "agentwatch/tester", 5, "monitor"))]
    told += [
        run("ssh\0-N\0-R\x009000:localhost:22\0host", 100, at(1)),
        *(run("x", 101, at(n)) for n in (2, 3)),
    ]
    past = Past(tunnels.to_bytes(), tunnels.digest)
    path = record(tmp_path / "t.trace", told, tunnels, rotation=Rotation(max_bytes=1), snapshots=past)
    made = Recorded((segment_path(path, 3),))
    made.connect()
    assert [alert["rule"]["title"] for alert in made.ask("alerts")["alerts"]] == ["Tunnels"]
    made.close()
