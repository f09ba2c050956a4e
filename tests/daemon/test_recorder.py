"""Incidents: what an agent did before, during and after an alert, in a trace that can be replayed."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentwatch.config.record import Incidents
from agentwatch.control.protocol import ProtocolError
from agentwatch.daemon.recorder import IncidentWriter
from agentwatch.replay import Order, Replay
from agentwatch.trace.error import TraceError
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.verify import verify
from tests.daemon.service import LOOP, MINER, Service, service
from tests.lab import Cgroup, eventually
from tests.recordings import connections, header, rules_for

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
WAITS = ["sh", "-c", 'read -r _; "$@"; true', "sh"]


def replayed(path: Path) -> list[dict[str, Any]]:
    """The alerts of a trace."""
    lines: list[bytes] = []
    outcome = Replay((path,), Order(), lines.append, lambda done: None).run()
    assert outcome.remarks == []
    return [json.loads(line) for line in lines]


def incidents(daemon: Service) -> list[Path]:
    return sorted((daemon.folder / "state" / "incidents").glob("*.trace"))


@pytest.mark.root
@needs_root
def test_an_alert_leaves_a_trace_that_shows_it_with_its_ancestry(tmp_path: Path) -> None:
    with (
        service(tmp_path) as daemon,
        socket.create_server(("127.0.0.1", 0)) as pool,
        Cgroup("incident") as cgroup,
        Cgroup("bystander") as other,
        other.popen(["sh", "-c", "while :; do /bin/true; sleep 0.05; done"]) as bystander,
    ):
        miner = [sys.executable, "-c", MINER, str(pool.getsockname()[1])]
        with cgroup.popen([*WAITS, *miner], stdin=subprocess.PIPE) as shell:
            eventually(cgroup.pids)
            daemon.attach(other, name="bystander")
            daemon.attach(cgroup, name="miner")
            daemon.ask("mark", agent="miner", markers={"run": "7"})
            assert shell.stdin is not None
            shell.stdin.write(b"\n")
            shell.stdin.flush()
            eventually(lambda: daemon.ask("alerts")["alerts"])
            (live,) = [one for one in daemon.ask("alerts")["alerts"] if one["acted"] == "pause"]
            eventually(lambda: incidents(daemon))
            daemon.ask("kill", agent="miner")
            shell.wait()
        bystander.kill()
        assert daemon.stop() == 0
        (path,) = incidents(daemon)
        report = verify(path)
        assert report.whole and report.closed
        assert report.header.agents == ("miner",)
        assert report.header.extra["incident"]["rule"] == live["rule"]["id"]
        (alert,) = [one for one in replayed(path) if one["rule"]["id"] == live["rule"]["id"]]
        for name in ("time", "agent", "acted", "process", "flow", "event", "markers", "latency_us"):
            assert alert[name] == live[name], name
        assert alert["process"]["ancestors"]
        assert alert["markers"] == {"run": "7"}
        with TraceReader(path) as reader:
            assert b"bystander" not in b"".join(batch.data for one in reader for batch in one)
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.root
@needs_root
def test_the_tape_is_written_when_somebody_asks(tmp_path: Path) -> None:
    with (
        service(tmp_path) as daemon,
        Cgroup("saved") as cgroup,
    ):
        loop = cgroup.popen(LOOP)
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="job")
        path = Path(daemon.ask("save", agent="job")["path"])
        with TraceReader(path) as reader:
            assert reader.header.extra["incident"]["saved_by"].startswith("root (uid 0")
            assert any(b"sleep" in batch.data for one in reader for batch in one)
        assert verify(path).whole
        with pytest.raises(ProtocolError, match="no agent nobody"):
            daemon.ask("save", agent="nobody")
        loop.kill()
        loop.wait()


@pytest.mark.root
@needs_root
def test_everything_is_recorded_where_that_is_asked_for(tmp_path: Path) -> None:
    with (
        service(tmp_path, "--record") as daemon,
        Cgroup("recorded") as cgroup,
        cgroup.popen([*WAITS, "sh", "-c", "sleep 0 Bearer=abcdefghijklmnop"], stdin=subprocess.PIPE) as shell,
    ):
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="job")
        shell.communicate(b"\n")
        eventually(lambda: daemon.ask("agents") == [])
        assert daemon.stop() == 0
        (path,) = (tmp_path / "state" / "traces").glob("*.trace")
        assert verify(path).whole
        assert replayed(path) == []


@pytest.mark.root
@needs_root
def test_a_recorder_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with (
        service(tmp_path) as daemon,
        Cgroup("killed") as cgroup,
    ):
        loop = cgroup.popen(LOOP)
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="job")
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text()
        (recorder,) = [
            int(pid)
            for pid in children.split()
            if b"daemon.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(recorder, signal.SIGKILL)
        eventually(lambda: "the recorder ended and is started again" in daemon.said())

        def saved() -> str:
            try:
                return str(daemon.ask("save", agent="job")["path"])
            except ProtocolError:
                return ""

        path = Path(eventually(saved, 15))
        with TraceReader(path) as reader:
            told = b"".join(batch.data for one in reader for batch in one)
        assert b"/bin/sh" in told or b"dash" in told
        loop.kill()
        loop.wait()


# --- without a daemon ---


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


HIGH = {"level": "high", "rule": "x", "title": "x", "time": ""}


def writer_in(folder: Path, clock: Callable[[], float], said: list[Any], **limits: Any) -> IncidentWriter:
    rules = rules_for(folder.parent)
    made = Incidents(**{"after": 10, "longest": 25, **limits})
    return IncidentWriter(
        made, folder, header(rules), rules.to_bytes(), None, lambda *a: said.append(a), clock
    )


def test_an_incident_goes_on_while_alerts_come_and_no_longer_than_allowed(tmp_path: Path) -> None:
    clock = Clock()
    said: list[Any] = []
    writer = writer_in(tmp_path / "incidents", clock, said)
    rounds = connections(30)
    for second, batches in enumerate(rounds):
        clock.now = second
        writer.append(batches)
        if second in (3, 12):
            writer.alert(1, "demo", HIGH)
        writer.tick()
    writer.close()
    (path,) = (tmp_path / "incidents").iterdir()
    with TraceReader(path) as reader:
        assert list(reader) == rounds[:23]  # from the beginning until 10 s after the second alert


def test_what_is_saved_is_whole_and_its_incident_goes_on_in_the_next_trace(tmp_path: Path) -> None:
    clock = Clock()
    writer = writer_in(tmp_path / "incidents", clock, [])
    rounds = connections(30)
    for second, batches in enumerate(rounds):
        clock.now = second
        writer.append(batches)
        if second == 3:
            writer.alert(1, "demo", HIGH)
        if second == 5:
            saved = writer.save(1, "demo", "root")
            assert verify(saved).whole
        writer.tick()
    writer.close()
    (rest,) = {*(tmp_path / "incidents").iterdir()} - {saved}
    with TraceReader(saved) as reader:
        assert list(reader) == rounds[:6]
    with TraceReader(rest) as reader:
        assert reader.header.extra["incident"]["continues"] == saved.name
        assert list(reader) == rounds[:14]  # with what is kept, until 10 s after the alert


def test_alerts_below_the_level_write_nothing(tmp_path: Path) -> None:
    writer = writer_in(tmp_path / "incidents", Clock(), [])
    writer.append(connections(1)[0])
    writer.alert(1, "demo", {**HIGH, "level": "low"})
    writer.close()
    assert not (tmp_path / "incidents").exists()


def test_what_fell_off_the_tape_is_told_at_its_beginning(tmp_path: Path) -> None:
    clock = Clock()
    said: list[Any] = []
    writer = writer_in(tmp_path / "incidents", clock, said, before=5)
    for batches in connections(30):
        writer.append(batches)
    writer.alert(1, "demo", HIGH)
    writer.close()
    (path,) = (tmp_path / "incidents").iterdir()
    alerts = replayed(path)
    assert [alert["agent"] for alert in alerts] == ["demo"] * len(alerts)
    assert len(alerts) in (5, 6)


def test_the_oldest_incidents_make_room_and_not_the_running_one(tmp_path: Path) -> None:
    folder = tmp_path / "incidents"
    folder.mkdir()
    for day in (1, 2, 3):
        old = folder / f"2026010{day}T000000.000000Z-old.trace"
        old.write_bytes(b"x" * (400 << 10))
        os.utime(old, (day, day))
    (folder / "notes.txt").write_bytes(b"x" * (4 << 20))
    said: list[Any] = []
    writer = writer_in(folder, Clock(), said, max_bytes=1 << 20, max_age=10**10)
    writer.append(connections(1)[0])
    writer.alert(1, "demo", HIGH)
    writer.close()
    assert [path.name[:8] for path in sorted(folder.glob("*old.trace"))] == ["20260102", "20260103"]
    assert (folder / "notes.txt").exists()
    assert len(list(folder.glob("*demo.trace"))) == 1


def test_what_cannot_be_written_is_said_and_counted(tmp_path: Path) -> None:
    (tmp_path / "incidents").write_text("in the way")
    said: list[Any] = []
    writer = writer_in(tmp_path / "incidents", Clock(), said)
    for batches in connections(3):
        writer.append(batches)
    writer.alert(1, "demo", HIGH)
    assert [what for what, *_ in said] == ["said", "lost"]
    assert said[1][1] == 1 and said[1][2] >= 3


def test_a_disk_that_is_full_is_said_counted_and_told_at_the_end(tmp_path: Path) -> None:
    said: list[Any] = []
    writer = writer_in(tmp_path / "incidents", Clock(), said)
    for batches in connections(3):
        writer.append(batches)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # fails as a full disk does, halfway
        writer.alert(1, "demo", HIGH)

        def noticed() -> bool:
            writer.tick()
            return any("cannot be written" in str(message[1]) for message in said)

        eventually(noticed)
        with pytest.raises(TraceError):
            writer.save(1, "demo", "root")
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    (lost,) = [message for message in said if message[0] == "lost"]
    assert lost[1] == 1 and lost[2] >= 1
    assert lost[3].startswith("incident incomplete: File too large")
    assert sum("cannot be written" in str(message[1]) for message in said) == 1
