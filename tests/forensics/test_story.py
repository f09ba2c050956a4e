"""What a story tells: processes with their ancestors, flows, alerts and what they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change
from agentwatch.forensics import story as module
from agentwatch.forensics.account import digest_of
from agentwatch.forensics.story import Life, Link, Listener, Story, wall_of
from agentwatch.replay import Order, Replay
from agentwatch.schema.events import Type
from agentwatch.sinks.alerts import timestamp
from tests.forensics.samples import (
    ADDRESS,
    DEMO,
    agent,
    at,
    damaged,
    end,
    fork,
    incident,
    notes,
    recorded,
    run,
    slot,
)


class Heard(Listener):
    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.links: list[Link] = []
        self.alerts: list[tuple[int, dict[str, Any], Life | None, Link | None]] = []
        self.moments: list[tuple[int, list[str]]] = []

    def moment(self, change: Change, events: list[Sighting], life: Life) -> None:
        self.moments.append((change.seq, [event.category for event in events]))

    def process(self, life: Life) -> None:
        self.lives.append(life)

    def link(self, link: Link) -> None:
        self.links.append(link)

    def alert(self, number: int, alert: dict[str, Any], life: Life | None, link: Link | None) -> None:
        self.alerts.append((number, alert, life, link))


def told(path: Path) -> tuple[Story, Heard]:
    heard = Heard()
    story = Story((path,), heard)
    story.tell()
    return story, heard


def test_the_demonstration_as_it_was() -> None:
    story, heard = told(DEMO)
    assert not story.incomplete and not story.outcome.damaged
    assert (story.outcome.records, len(heard.alerts)) == (255, 6)
    ssh = next(life for life in heard.lives if life.process.exe == "/usr/bin/ssh")
    assert [life.process.exe for life in ssh.ancestry] == ["/usr/bin/python3.11", "/usr/bin/ssh"]
    assert all(life.process.ended and life.agent == "demo" for life in heard.lives)
    behaviours = {link.flow.remote_port: list(link.behaviours) for link in heard.links}
    assert "remote_forward opened" in behaviours[22] and behaviours[3333] == []
    about = [(life and life.process.exe, link and link.flow.remote_port) for _, _, life, link in heard.alerts]
    assert about[0] == ("/usr/bin/ssh", None) and about[1] == ("/usr/bin/ssh", 22)
    assert about[4] == ("/usr/bin/python3.11", 3333)


def test_to_be_watched_changes_no_alert() -> None:
    alone: list[bytes] = []
    Replay((DEMO,), Order(), alone.append, lambda done: None).run()
    seen: list[bytes] = []
    Replay((DEMO,), Order(), seen.append, lambda done: None, observer=Story((DEMO,))).run()
    assert seen == alone and len(alone) == 6


def test_every_record_is_a_moment_with_its_events(tmp_path: Path) -> None:
    _, heard = told(recorded(tmp_path, incident()))
    categories = [name for _, names in heard.moments for name in names]
    assert categories.count("process_creation") == 3
    assert "dns_query" in categories and "network_connection" in categories
    numbers = [seq for seq, _ in heard.moments]
    assert numbers == sorted(set(numbers))


def test_each_process_and_flow_is_told_once_also_when_few_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIVES_KEPT", "ENDED_KEPT", "LINKS_KEPT", "CLOSED_KEPT"):
        monkeypatch.setattr(module, name, 3)
    rounds = [agent(), run(100, 1, 0, "/bin/a", ["a"])]
    for pid in range(200, 220):
        rounds += [fork(pid, 100, pid - 199), run(pid, 100, pid - 199, "/bin/b", ["b", str(pid)])]
        block = {"cookie": pid, "remote": ADDRESS, "remote_port": 9, "family": 2, "protocol": 6}
        rounds += [slot("connect", time=at(pid - 199), tgid=pid, start=pid, **block), end(pid, pid - 199)]
    _, heard = told(recorded(tmp_path, rounds))
    # The root itself may be forgotten and seen again; those that came and went are told once.
    assert sorted(life.process.pid for life in heard.lives if life.process.pid >= 200) == [*range(200, 220)]
    assert sorted(link.flow.cookie for link in heard.links) == [*range(200, 220)]


def test_a_chain_of_forks_takes_bounded_memory_and_keeps_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEEPEST", 5)
    forks = [fork(pid, pid - 1, pid - 99) for pid in range(101, 120)]
    _, heard = told(recorded(tmp_path, [agent(), run(100, 1, 0, "/bin/a", ["a"]), *forks]))
    last = next(life for life in heard.lives if life.process.pid == 119)
    assert [life.process.pid for life in last.ancestry] == [100, 101, 102, 103, 104, 119]
    assert last.skipped == 14


def test_a_reused_process_id_is_another_life(tmp_path: Path) -> None:
    rounds = [agent(), run(100, 1, 0, "/bin/first", ["first"]), end(100, 1)]
    again = slot("fork", time=at(2), tgid=100, start=5000, parent=1, parent_start=1)
    _, heard = told(recorded(tmp_path, [*rounds, again]))
    assert [life.process.start for life in heard.lives] == [100, 5000]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    lost = notes((int(Type.LOSS), at(1), 1, 0, 0, int(Type.EXEC), 7, "ring full"))
    path = recorded(
        tmp_path, [*incident(), lost], coverage={"unix": ["no hook", "unix sockets are not seen"]}
    )
    story, _ = told(damaged(path))
    assert story.outcome.damaged
    assert "7 exec events were lost" in story.incomplete
    assert story.unseen == ["unix could not all be watched: unix sockets are not seen"]
    assert any("torn" in sentence or "not closed" in sentence for sentence in story.incomplete)


def test_a_file_that_is_no_trace_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"not a trace")
    story, heard = told(path)
    assert story.header is None and story.outcome.damaged and not heard.moments
    assert story.incomplete == ["not an agentwatch trace"]


@given(st.integers(-(2**62), 2**62))
def test_an_alerts_time_reads_back(time: int) -> None:
    assert wall_of(timestamp(time, 0)) == time


def test_digest_is_of_the_file() -> None:
    assert len(digest_of((DEMO,))) == 64
    assert digest_of((Path("-"),)) == "" and digest_of((Path("/nonexistent"),)) == ""
