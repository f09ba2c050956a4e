"""`agentwatch attach` as a user runs it, on agents that ran before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import create, find_mount
from agentwatch.respond.cgroup import kill
from tests.lab import Cgroup, eventually
from tests.lab.running import Talker, talker

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SUBSCRIBE = '{"id":1,"method":"mining.subscribe","params":["miner/1.0"]}'


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Talker]:
    with talker(tmp_path) as found:
        yield found


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "agentwatch", "attach", *map(str, arguments)]


def attach(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        start_new_session=True, check=False,
    )  # fmt: skip


def begin(*arguments: object, said: list[str] | None = None) -> subprocess.Popen[str]:
    """Attach, and wait until the agent is watched; `said` collects what is said until then."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if said is not None:
            said.append(line)
        if line.endswith(": running\n"):
            return process
    pytest.fail("it ended before it watched")


def test_old_agent_that_begins_to_mine_is_frozen_and_named(agent: Talker, tmp_path: Path) -> None:
    alerts, trace, again = tmp_path / "alerts", tmp_path / "trace", tmp_path / "again"
    files = ["--alerts", alerts, "--record", trace]
    watch = begin("--name", "old", "--mode", "enforce", *files, agent.process.pid)
    agent.ask(f"say {SUBSCRIBE}")
    eventually(agent.cgroup.frozen)
    eventually(alerts.read_bytes)
    watch.send_signal(signal.SIGINT)
    _, errors = watch.communicate(timeout=30)
    assert watch.returncode == 3
    assert "stays frozen" in errors
    assert f"echo 0 > {agent.cgroup.path}/cgroup.freeze" in errors
    assert agent.cgroup.frozen()
    (alert,) = map(json.loads, alerts.read_text().splitlines())
    assert (alert["agent"], alert["acted"]) == ("old", "pause")
    assert alert["process"]["argv"] == list(agent.argv)
    assert alert["process"]["pid"] == agent.process.pid
    assert alert["flow"]["protocol"] == "stratum"
    assert alert["flow"]["remote"] == "{}:{}".format(*agent.peer.getsockname())
    replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), "--alerts", str(again)]
    assert subprocess.run(replay, capture_output=True, check=False).returncode == 0
    assert again.read_bytes() == alerts.read_bytes()
    agent.cgroup.freeze(False)
    agent.done()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_detaching_leaves_the_agent_running(agent: Talker, number: int) -> None:
    watch = begin("--mode", "enforce", agent.cgroup.path)
    watch.send_signal(number)
    watch.communicate(timeout=30)
    assert watch.returncode == 0
    agent.tell("run")


def test_killed_watch_leaves_the_agent_running(agent: Talker) -> None:
    watch = begin("--mode", "enforce", agent.cgroup.path)
    watch.kill()
    watch.communicate(timeout=30)
    agent.tell("run")


def test_watch_ends_with_the_agent_and_leaves_its_cgroup(agent: Talker) -> None:
    watch = begin(agent.cgroup.path)
    agent.ask("end")
    watch.communicate(timeout=30)
    assert watch.returncode == 0
    assert agent.cgroup.path.is_dir()


def test_watch_ends_when_the_cgroup_is_removed() -> None:
    with Cgroup("removed") as cgroup, cgroup.popen(["sleep", "600"]) as sleep:
        watch = begin(cgroup.path)
        watch.send_signal(signal.SIGSTOP)  # it must not notice the emptying before the removal
        sleep.kill()
        sleep.wait()
        eventually(lambda: not cgroup.pids())
        cgroup.path.rmdir()
        watch.send_signal(signal.SIGCONT)
        watch.communicate(timeout=30)
        assert watch.returncode == 0
        cgroup.path.mkdir()


def test_frozen_agent_is_told_with_the_way_to_resume_it(agent: Talker) -> None:
    agent.cgroup.freeze()
    said: list[str] = []
    watch = begin(agent.cgroup.path, said=said)
    watch.send_signal(signal.SIGTERM)
    watch.communicate(timeout=30)
    assert f"frozen already; resume it with: echo 0 > {agent.cgroup.path}/cgroup.freeze\n" in "".join(said)
    assert agent.cgroup.frozen()


def test_agent_of_another_instance_is_refused() -> None:
    with create(f"attached-{os.getpid()}") as cgroup:
        done = attach(cgroup.path)
        assert done.returncode == 4
        assert "watched already" in done.stderr
        kill(cgroup)


def test_own_cgroup_is_refused() -> None:
    with Cgroup("own") as cgroup:
        with cgroup.popen(command(cgroup.path), stderr=subprocess.PIPE) as process:
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 4
        assert b"agentwatch itself runs in" in errors
        assert b"agentwatch run" in errors


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("{mount}", "agentwatch run"),
        ("{mount}/..", "no directory of cgroup v2"),
        ("/no/such/thing", "no directory of cgroup v2"),
        ("{mount}/no-such-agent", "no directory of cgroup v2"),
        ("4194305", "no process 4194305"),
    ],
)
def test_what_cannot_be_watched_is_refused_in_a_sentence(target: str, text: str) -> None:
    done = attach(target.format(mount=find_mount()))
    assert done.returncode == 4
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_process_in_the_root_cgroup_is_refused() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            (find_mount() / "cgroup.procs").write_text(str(process.pid))
            done = attach(process.pid)
        finally:
            process.kill()
    assert done.returncode == 4
    assert "the root cgroup holds the whole host" in done.stderr
