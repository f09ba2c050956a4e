"""The daemon's metrics and sinks, end to end: a real agent, real probes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.clock import now
from agentwatch.daemon import meter as meter_module
from agentwatch.daemon.meter import Meter
from agentwatch.rules.load import load_rules
from agentwatch.session import Session
from agentwatch.sinks.metrics import METRICS
from agentwatch.watch import Watch
from tests.daemon.service import LOOP, SLEEPS, Service, service
from tests.daemon.test_front import scrape
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SINKS = """
[rules]
paths = ["{folder}/rules"]
[sinks.jsonl]
enabled = true
path = "{folder}/alerts.jsonl"
[sinks.prometheus]
enabled = true
listen = "127.0.0.1:{port}"
[[sinks.webhook]]
id = "dead"
url = "http://127.0.0.1:1/"
"""
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


class Metrics:
    """What a scrape gave."""

    def __init__(self, port: int) -> None:
        self.values: dict[str, float] = {}
        for line in scrape(port).partition("\r\n\r\n")[2].splitlines():
            if not line.startswith("#"):
                found = SAMPLE.fullmatch(line)
                assert found, line
                name, labels, value = found.groups()
                self.values[f"{name}{{{labels}}}" if labels else name] = float(value)

    def __getitem__(self, name: str) -> float:
        return self.values.get(name, 0)


@pytest.fixture
def agent() -> Iterator[Cgroup]:
    with Cgroup("meter") as cgroup, cgroup.popen(LOOP) as process:
        eventually(cgroup.pids)
        yield cgroup
        process.kill()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    return number


@pytest.fixture
def daemon(tmp_path: Path, port: int) -> Iterator[Service]:
    """One with a file, a webhook that nobody serves, and metrics."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "sleep.yml").write_text(SLEEPS)
    (tmp_path / "main.toml").write_text(SINKS.format(folder=tmp_path, port=port))
    with service(tmp_path, "--config", str(tmp_path / "main.toml")) as made:
        yield made


def told(folder: Path) -> list[dict[str, object]]:
    path = folder / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_alerts_reach_the_file_and_a_dead_webhook_changes_nothing(
    daemon: Service, agent: Cgroup, tmp_path: Path
) -> None:
    daemon.attach(agent, name="job")
    first = eventually(lambda: told(tmp_path))[0]
    assert first in daemon.ask("alerts")["alerts"]
    eventually(lambda: daemon.ask("status")["sinks"]["webhook-dead"]["error"])
    sinks = daemon.ask("status")["sinks"]
    assert sinks["jsonl"]["sent"] > 0
    assert (sinks["jsonl"]["error"], sinks["jsonl"]["dropped"]) == ("", 0)
    assert sinks["webhook-dead"]["queued"] > 0
    assert daemon.ask("status")["link"] == {"backlog": 0, "dropped": 0}
    assert daemon.said().count("sink webhook-dead: ") == 1
    assert daemon.ask("pause", agent="job")["result"] == "done"
    shown = subprocess.run(
        [sys.executable, "-m", "agentwatch", "status", "--socket", str(daemon.socket)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.search(r"^sink     webhook-dead: 0 sent, \d+ queued; ", shown.stdout, re.MULTILINE)


def test_hangup_opens_the_file_anew(daemon: Service, agent: Cgroup, tmp_path: Path) -> None:
    daemon.attach(agent, name="job")
    eventually(lambda: told(tmp_path))
    (tmp_path / "alerts.jsonl").rename(tmp_path / "alerts.jsonl-old")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: told(tmp_path))


def test_a_reload_changes_the_sinks(daemon: Service, agent: Cgroup, tmp_path: Path) -> None:
    daemon.attach(agent, name="job")
    eventually(lambda: told(tmp_path))
    main = tmp_path / "main.toml"
    main.write_text(main.read_text().replace("alerts.jsonl", "other.jsonl").partition("[[")[0])
    daemon.process.send_signal(signal.SIGHUP)
    eventually((tmp_path / "other.jsonl").exists)
    assert daemon.ask("status")["sinks"].keys() == {"jsonl", "prometheus"}


def test_metrics_are_those_of_the_documentation_and_move(daemon: Service, agent: Cgroup, port: int) -> None:
    daemon.attach(agent, name="job")
    seen = Metrics(port)
    known = {metric.name for metric in METRICS}
    assert {name.partition("{")[0] for name in seen.values} <= known

    def counted() -> bool:
        seen.__init__(port)  # type: ignore[misc]
        return bool(
            seen['agentwatch_alerts_total{level="low"}'] > 3
            and seen['agentwatch_program_runs_total{program="on_exec"}'] > 3
            and seen['agentwatch_sink_sent_total{sink="jsonl"}'] > 3
        )

    eventually(counted, 30)
    assert seen['agentwatch_agents{state="running"}'] == 1
    assert seen["agentwatch_records_total"] > seen["agentwatch_events_total"] > 0
    assert 0 < seen['agentwatch_program_run_seconds_total{program="on_exec"}'] < 10
    assert 0 < seen["agentwatch_lag_seconds"] < 10
    assert seen['agentwatch_lost_total{type="unreadable"}'] == 0
    assert seen['agentwatch_sink_failing{sink="webhook-dead"}'] == 1
    assert seen['agentwatch_resident_memory_bytes{process="core"}'] > 1 << 20
    assert seen['agentwatch_ring_fill_ratio{ring="slots"}'] < 1
    assert seen["agentwatch_link_dropped_total"] == 0
    assert {name.partition("{")[0] for name in seen.values} == known


def test_a_front_that_is_stopped_holds_up_no_record(daemon: Service, agent: Cgroup, port: int) -> None:
    """It takes nothing any more; the core goes on, and drops for it in the end."""
    daemon.attach(agent, name="job")
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    (front,) = [int(pid) for pid in children if b"daemon.front" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    eventually(lambda: Metrics(port)["agentwatch_records_total"])
    os.kill(front, signal.SIGSTOP)
    try:
        more = SLEEPS.replace("sleeps", "again").replace("1111", "2222")
        (daemon.folder / "rules" / "more.yml").write_text(more)
        daemon.process.send_signal(signal.SIGHUP)
        eventually(lambda: "2 are in force" in daemon.said(), 20)  # the core's loop turns
    finally:
        os.kill(front, signal.SIGCONT)
    eventually(lambda: any(one["rule"]["title"] == "again" for one in daemon.ask("alerts")["alerts"]), 20)
    assert daemon.ask("status")["lost"] == {}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    rule = tmp_path / "sleep.yml"
    rule.write_text(SLEEPS)
    with Watch() as watch, Session(watch, load_rules([rule]), []) as made:
        yield made


def runs(meter: Meter) -> int:
    """How often the kernel counted forks."""
    subprocess.run(["true"], check=True)
    return sum(row[1] for row in meter.samples(0, 0).get("agentwatch_program_runs_total", ()))


def test_programs_are_timed_when_that_is_wanted(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    never = Meter(session, "never")
    never.note_scrape()
    assert runs(never) == runs(never)  # others' timing may have left counts
    always = Meter(session, "always")
    runs(always)
    assert 0 < runs(always) < runs(always)
    always.close()
    scraped = Meter(session, "scraped")
    assert scraped.samples(0, 0).get("agentwatch_program_runs_total") is None
    scraped.note_scrape()
    runs(scraped)
    assert 0 < runs(scraped) < runs(scraped)
    monkeypatch.setattr(meter_module, "SCRAPED_NS", 0)
    scraped.note_scrape()
    runs(scraped)  # gives it up
    assert runs(scraped) == runs(scraped) > 0


def test_it_is_time_once_a_second(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(session)
    assert meter.due()
    meter.samples(0, 0)
    assert not meter.due()
    monkeypatch.setattr(meter_module, "now", lambda: now() + meter_module.INTERVAL_NS)
    assert meter.due()


def test_the_lag_is_the_worst_of_its_second(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    meter, counters = Meter(session), session.pipeline.counters
    monkeypatch.setattr(meter_module, "now", lambda: 10_000_000_000)
    for newest in (9_000_000_000, 9_900_000_000):
        counters.newest = newest
        meter.after_round()
    samples = meter.samples(0, 0)
    assert samples["agentwatch_lag_seconds"] == [[1.0]]
    assert samples["agentwatch_newest_record_age_seconds"] == [[0.1]]
    meter.after_round()  # no record came
    assert meter.samples(0, 0)["agentwatch_lag_seconds"] == [[0.0]]
