"""The daemon as a process: it watches, acts, answers, dies, and takes up what it left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agentwatch.control.client import Client
from agentwatch.control.protocol import ProtocolError
from tests.daemon.service import LOOP, MINER, SLEEPS, WAITS, Service, service
from tests.lab import Cgroup, eventually, script

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ASK = """
import sys
from pathlib import Path
from agentwatch.control.client import Client
Client(Path(sys.argv[1])).ask("detach", agent="job")
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as made:
        yield made


@pytest.fixture
def agent() -> Iterator[Cgroup]:
    with Cgroup("daemon") as cgroup, cgroup.popen(LOOP) as process:
        eventually(cgroup.pids)
        yield cgroup
        process.kill()


def test_an_agent_is_paused_resumed_and_killed_by_hand(daemon: Service, agent: Cgroup) -> None:
    name = daemon.attach(agent, name="job")
    assert name == "job"
    done = daemon.ask("pause", agent="job", reason="a test")
    assert (done["result"], done["settled"]) == ("done", True)
    assert agent.frozen()
    eventually(lambda: daemon.agent("job")["state"] == "paused")
    daemon.ask("resume", agent="job")
    assert not agent.frozen()
    assert daemon.ask("kill", agent="job")["processes"] == 0
    assert agent.pids() == []
    eventually(lambda: daemon.ask("agents") == [])
    assert "pause 'job'" in daemon.said()


def test_a_frozen_agent_is_taken_up_frozen_by_the_next_daemon(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    daemon.ask("pause", agent="job", reason="a test")
    eventually(lambda: "a test" in (daemon.folder / "agents.json").read_text())
    daemon.kill()
    assert agent.frozen()
    daemon.start()
    found = daemon.agent("job")
    assert (found["state"], found["mode"]) == ("paused", "enforce")
    assert agent.frozen()
    daemon.ask("resume", agent="job")
    assert not agent.frozen()


def test_an_agent_that_was_thawed_meanwhile_is_frozen_again(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    daemon.ask("pause", agent="job")
    eventually(lambda: '"paused": true' in (daemon.folder / "agents.json").read_text())
    daemon.kill()
    agent.freeze(False)
    daemon.start()
    eventually(agent.frozen)
    assert "was thawed while no daemon ran" in daemon.said()


def test_a_stop_leaves_agents_as_they_are(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    daemon.ask("pause", agent="job")
    assert daemon.stop() == 0
    assert agent.frozen()
    assert not daemon.socket.exists()
    daemon.start()
    assert daemon.agent("job")["state"] == "paused"


def test_a_rule_freezes_and_the_alert_reaches_who_follows(daemon: Service) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as pool,
        Cgroup("miner") as cgroup,
        Client(daemon.socket) as client,
    ):
        command = [*WAITS, sys.executable, "-c", MINER, str(pool.getsockname()[1])]
        with cgroup.popen(command, stdin=subprocess.PIPE) as miner:
            eventually(cgroup.pids)
            daemon.attach(cgroup, name="miner")
            alerts = client.follow("alerts", agent="miner")
            assert next(alerts)[0]["alerts"] == []
            assert miner.stdin is not None
            miner.stdin.write(b"\n")
            miner.stdin.flush()
            alert, _ = next(alerts)
            assert (alert["acted"], alert["flow"]["protocol"]) == ("pause", "stratum")
            assert cgroup.frozen()
            assert [one["rule"]["id"] for one in daemon.ask("alerts")["alerts"]] == [alert["rule"]["id"]]
            assert daemon.agent("miner")["risk"] > 0
            miner.kill()


def test_what_a_rule_freezes_while_the_daemon_stops_is_taken_up_frozen(daemon: Service) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as pool,
        Cgroup("last") as cgroup,
        cgroup.popen(
            [*WAITS, sys.executable, "-c", MINER, str(pool.getsockname()[1])], stdin=subprocess.PIPE
        ) as miner,
    ):
        assert miner.stdin is not None
        try:
            eventually(cgroup.pids)
            daemon.attach(cgroup, name="last")
            daemon.process.send_signal(signal.SIGSTOP)  # what follows is found in the daemon's last round
            miner.stdin.write(b"\n")
            miner.stdin.flush()
            taken, _ = pool.accept()
            with taken:
                assert taken.recv(64)
                daemon.process.send_signal(signal.SIGTERM)
                daemon.process.send_signal(signal.SIGCONT)
                assert daemon.process.wait(20) == 0
                assert cgroup.frozen()
                daemon.start()
                agent = daemon.agent("last")
                assert agent["state"] == "paused"
                assert "unknown" not in agent["acted_by"]
        finally:
            miner.kill()


def test_what_was_frozen_unknown_to_the_daemon_is_taken_up_frozen(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    eventually(lambda: daemon.agent("job")["state"] == "running")
    daemon.process.kill()
    daemon.process.wait(20)
    agent.freeze()
    daemon.start()
    found = daemon.agent("job")
    assert (found["state"], found["acted_by"]) == ("paused", "unknown (before the daemon started)")
    daemon.ask("resume", agent="job")
    assert not agent.frozen()


def test_processes_and_flows_are_told(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    rows = daemon.ask("ps", agent="job")["processes"]
    assert rows[0]["argv"] == LOOP
    assert daemon.ask("flows", agent="job") == {"flows": [], "more": 0}
    with pytest.raises(ProtocolError, match="no agent nobody"):
        daemon.ask("ps", agent="nobody")


def test_what_is_watched_already_is_not_watched_twice(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    with pytest.raises(ProtocolError, match="lies in the cgroup of agent job"):
        daemon.attach(agent, name="again")
    with pytest.raises(ProtocolError, match="name has letters"):
        daemon.ask("attach", target=str(agent.path), name="../x")
    with pytest.raises(ProtocolError, match="no directory of cgroup v2"):
        daemon.ask("attach", target="/tmp")


def test_an_agent_may_not_act_through_the_socket(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    done = agent.popen([sys.executable, "-c", ASK, str(daemon.socket)], stderr=subprocess.PIPE)
    _, error = done.communicate(timeout=20)
    assert "agent job may not act on agents" in error.decode()
    assert daemon.agent("job")["name"] == "job"


def test_a_front_that_is_killed_is_started_again_and_the_watch_goes_on(
    daemon: Service, agent: Cgroup
) -> None:
    daemon.attach(agent, name="job")
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
    (front,) = [
        int(pid)
        for pid in children.read_text().split()
        if b"daemon.front" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(front, signal.SIGKILL)

    def answers() -> bool:
        with suppress(OSError):
            return bool(daemon.agent("job")["state"] == "running")
        return False

    eventually(lambda: "started again" in daemon.said())
    eventually(answers)


def test_rules_are_read_anew_and_the_events_they_see_are_followed(tmp_path: Path, agent: Cgroup) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    with service(tmp_path, "--rules", str(rules)) as daemon, Client(daemon.socket) as client:
        daemon.attach(agent, name="job")
        alerts = client.follow("alerts")
        next(alerts)
        (rules / "sleep.yml").write_text(SLEEPS)
        assert next(alerts)[0]["rule"]["title"] == "sleeps"
        with Client(daemon.socket) as other:
            events = other.follow("events", agent="job", category="process_creation")
            assert next(events)[0] == {"last": 0}
            event, _ = next(events)
            assert event["fields"]["Image"].endswith("/sleep")


def test_a_flood_of_garbage_changes_nothing(daemon: Service, agent: Cgroup) -> None:
    daemon.attach(agent, name="job")
    floods = []
    for _ in range(8):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(daemon.socket))
        one.setblocking(False)
        with suppress(OSError):
            for _ in range(200):
                one.send(b"\x00{garbage}\n" * 1000)
        floods.append(one)
    assert daemon.ask("pause", agent="job")["result"] == "done"
    assert agent.frozen()
    for one in floods:
        one.close()
    daemon.ask("resume", agent="job")
    assert json.loads((daemon.folder / "agents.json").read_text())["agents"][0]["name"] == "job"


def test_a_storm_of_forks_is_killed_to_the_last(daemon: Service) -> None:
    with Cgroup("storm") as cgroup, cgroup.popen(script("fork_storm", 300)) as storm:
        eventually(lambda: len(cgroup.pids()) > 200)
        daemon.attach(cgroup, name="storm")
        paused = daemon.ask("pause", agent="storm")
        assert paused["settled"] and paused["processes"] == len(cgroup.pids())
        daemon.ask("resume", agent="storm")
        assert daemon.ask("kill", agent="storm")["processes"] == 0
        assert cgroup.pids() == []
        storm.wait()


SLEEPERS = "i=0; while [ $i -lt 1000 ]; do sleep 90 & i=$((i+1)); done; wait"


def test_a_thousand_processes_under_a_storm_are_paused_and_killed_by_command(daemon: Service) -> None:
    def act(verb: str) -> str:
        command = [sys.executable, "-m", "agentwatch", verb, "--socket", str(daemon.socket), "thousand"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with (
        Cgroup("thousand") as cgroup,
        cgroup.popen(["sh", "-c", SLEEPERS]) as sleepers,
        cgroup.popen(script("fork_storm", 40)) as storm,
    ):
        eventually(lambda: len(cgroup.pids()) > 1040, 60)
        daemon.attach(cgroup, name="thousand", mode="monitor")  # else a rule over such forks is quicker
        paused = re.fullmatch(r"thousand is frozen, (\d+) processes, in \d+\.\d ms\n", act("pause"))
        assert paused and cgroup.frozen()
        assert int(paused[1]) == len(cgroup.pids()) > 1000
        assert act("pause") == f"thousand was frozen already, {paused[1]} processes\n"
        assert act("resume").startswith("thousand is resumed, ")
        assert re.fullmatch(r"thousand is killed, in \d+\.\d ms\n", act("kill"))
        assert cgroup.pids() == []
        sleepers.wait()
        storm.wait()
        eventually(lambda: daemon.ask("agents") == [])


def test_rules_that_cannot_be_used_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("title: [")
    command = [sys.executable, "-m", "agentwatch", "daemon", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*command, "--rules", str(tmp_path / "bad.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the rules cannot be used" in done.stderr and "Traceback" not in done.stderr
