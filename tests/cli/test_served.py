"""`run` and `attach` where a daemon is: it watches, the command tells."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import pytest

from agentwatch.cli import watching
from agentwatch.cli.watching import Settings
from agentwatch.control.client import NoDaemon
from agentwatch.control.protocol import PROTOCOL
from agentwatch.kernel.cgroup import PARENT, find_mount
from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

RULE = """
title: Connect to port one
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a11
logsource: {product: linux, category: network_connection}
detection:
  one: {DestinationPort: 1}
  condition: one
level: high
agentwatch: {response: pause}
"""
PYTHON = "/usr/bin/python3"
CONNECT = "import socket; input(); socket.socket().connect_ex(('127.0.0.1', 1)); input(); print('after')"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules"
    path.mkdir()
    (path / "rule.yml").write_text(RULE)
    return path


@pytest.fixture
def daemon(tmp_path: Path, rules: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A daemon that acts."""
    with service(tmp_path, "--rules", str(rules), "--mode", "enforce") as made:
        monkeypatch.setenv("AGENTWATCH_SOCKET", str(made.socket))
        yield made
        with suppress(NoDaemon):
            for agent in made.ask("agents"):  # what a test that failed has left
                made.ask("kill", agent=agent["name"])
            eventually(lambda: made.ask("agents") == [])


Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a command that is ended with the test."""
    with ExitStack() as stack:

        def started(verb: str, *arguments: object) -> subprocess.Popen[str]:
            process = stack.enter_context(_begin(verb, *arguments))
            stack.callback(process.kill)
            return process

        yield started


def _begin(verb: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agentwatch", verb, *map(str, arguments)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentwatch", "run", *map(str, arguments)], capture_output=True, text=True,
        timeout=60, stdin=subprocess.DEVNULL, start_new_session=True, check=False,
    )  # fmt: skip


def await_line(stream: IO[str] | None, text: str) -> str:
    """What is said up to a line with this text, and that."""
    assert stream is not None
    said = ""
    for line in stream:
        said += line
        if text in line:
            return said
    pytest.fail(f"ended without {text!r}: {said}")


def tell(process: subprocess.Popen[str]) -> None:
    """Let the agent do its next thing."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def processes(daemon: Service, name: str) -> list[Any]:
    return [row["argv"] for row in daemon.ask("ps", agent=name)["processes"] if row["status"] is None]


def test_the_daemon_watches_freezes_and_the_command_tells(
    daemon: Service, begin: Begin, tmp_path: Path
) -> None:
    alerts = tmp_path / "alerts"
    job = begin(
        "run", "--name", "job", "--mark", "episode=3", "--alerts", alerts, "--", PYTHON, "-c", CONNECT
    )
    await_line(job.stderr, "the daemon watches it as agent job")
    eventually(lambda: processes(daemon, "job") == [[PYTHON, "-c", CONNECT]])
    assert daemon.agent("job")["mode"] == "enforce"
    tell(job)
    said = await_line(job.stderr, "frozen and waits")
    assert "Connect to port one: frozen in" in said
    assert daemon.agent("job")["state"] == "paused"
    tell(job)
    daemon.ask("resume", agent="job")
    output, _ = job.communicate(timeout=30)
    assert (job.returncode, output) == (0, "after\n")
    (alert,) = map(json.loads, alerts.read_text().splitlines())
    assert (alert["agent"], alert["acted"], alert["markers"]) == ("job", "pause", {"episode": "3"})
    assert "begin" in daemon.said()


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_exit_code_is_the_commands(daemon: Service, command: str, code: int) -> None:
    done = run("--", "sh", "-c", command)
    assert done.returncode == code
    assert "0 alerts" in done.stderr
    assert run("--", "/no/such/thing").returncode == 127


def test_an_alert_of_the_last_moment_counts(daemon: Service) -> None:
    connect = "import socket; socket.socket().connect_ex(('127.0.0.1', 1))"
    done = run("--mode", "monitor", "--json", "--fail-on", "high", "--", PYTHON, "-c", connect)
    assert done.returncode == 3
    (alert,) = map(json.loads, done.stdout.splitlines())
    assert (alert["mode"], alert["acted"]) == ("monitor", "none")


def test_a_signal_ends_the_whole_tree_a_frozen_one_too(daemon: Service, begin: Begin) -> None:
    job = begin("run", "--name", "job", "--", "sh", "-c", "setsid sleep 600 & echo up; wait")
    await_line(job.stdout, "up")
    daemon.ask("pause", agent="job")
    await_line(job.stderr, "frozen and waits")
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert job.returncode == 128 + signal.SIGINT
    assert not (find_mount() / PARENT / "job").exists()


def test_a_freeze_outlives_the_command(daemon: Service, begin: Begin) -> None:
    left = begin("run", "--name", "left", "--on-pause", "leave", "--", PYTHON, "-c", CONNECT)
    killed = begin("run", "--name", "killed", "--", PYTHON, "-c", CONNECT)
    running = begin("run", "--name", "running", "--", "sleep", "600")
    for process in (left, killed, running):
        await_line(process.stderr, "running")
    tell(left)
    await_line(left.stderr, f"resume it with: agentwatch resume --socket {daemon.socket} left")
    assert left.wait(30) == 3
    tell(killed)
    await_line(killed.stderr, "frozen and waits")
    killed.kill()
    running.kill()
    eventually(lambda: {one["name"] for one in daemon.ask("agents")} == {"left", "killed"})
    assert {one["state"] for one in daemon.ask("agents")} == {"paused"}
    for name in ("left", "killed"):
        daemon.ask("kill", agent=name)
    for process in (left, killed, running):
        process.communicate(timeout=30)


def test_an_agent_goes_on_while_the_daemon_is_away(daemon: Service, begin: Begin) -> None:
    job = begin("run", "--name", "job", "--strict", "--", PYTHON, "-c", CONNECT)
    orphan = begin("run", "--name", "orphan", "--", "sleep", "600")
    for process in (job, orphan):
        await_line(process.stderr, "running")
    daemon.kill()
    await_line(job.stderr, "the agent goes on")
    orphan.kill()
    orphan.wait()
    daemon.start()
    await_line(job.stderr, f"a daemon runs again (process {daemon.process.pid}) and watches agent job")
    # Who began it has ended: the next daemon ends it, as the one before would have.
    eventually(lambda: [one["name"] for one in daemon.ask("agents")] == ["job"])
    orphan.communicate(timeout=30)
    tell(job)
    await_line(job.stderr, "frozen and waits")
    tell(job)
    daemon.ask("resume", agent="job")
    assert job.communicate(timeout=30)[0] == "after\n"
    assert job.returncode == 6  # not all was seen


def test_without_the_daemon_a_signal_still_ends_the_tree(daemon: Service, begin: Begin) -> None:
    job = begin("run", "--name", "job", "--", "sh", "-c", "setsid sleep 600 & sleep 600")
    await_line(job.stderr, "running")
    daemon.kill()
    await_line(job.stderr, "the agent goes on")
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=30)
    assert job.returncode == 128 + signal.SIGTERM
    assert "may be missing" in said
    daemon.start()
    assert daemon.ask("agents") == []


@pytest.mark.parametrize("option", [["--record"], ["--alone"]])
def test_what_the_daemon_cannot_serve_is_watched_alone(
    daemon: Service, begin: Begin, tmp_path: Path, option: list[str]
) -> None:
    trace = [str(tmp_path / "trace")] if option == ["--record"] else []
    job = begin("run", "--name", "job", *option, *trace, "--", PYTHON, "-c", CONNECT)
    await_line(job.stderr, "running")
    assert daemon.ask("agents") == []
    _, said = job.communicate("\n\n", timeout=30)
    assert "records" in said
    assert (tmp_path / "trace").exists() == bool(trace)


def test_it_is_said_why_a_run_is_not_the_daemons(daemon: Service, rules: Path, tmp_path: Path) -> None:
    done = run("--rules", rules, "--record", tmp_path / "trace", "--", "true")
    assert "watching without the daemon, which has no --rules, --record" in done.stderr
    done = run("--socket", tmp_path / "none.sock", "--", "true")
    assert (done.returncode, "no daemon answers" in done.stderr) == (1, True)


def test_a_daemon_that_is_expected_and_missing_is_said(daemon: Service) -> None:
    with Cgroup("left") as cgroup, cgroup.popen(["sleep", "600"]) as agent:
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="left")
        daemon.kill()
        eventually(lambda: not daemon.socket.exists())
        for reason in ("No such file or directory", "Connection refused"):
            done = run("--mode", "enforce", "--", "true")
            assert done.returncode == 0
            (line,) = [line for line in done.stderr.splitlines() if "daemon" in line]
            told = f"agentwatch: no daemon answers at {daemon.socket}: {reason}"
            assert line == f"{told}: watching alone, in mode enforce"
            with socket.socket(socket.AF_UNIX) as left, suppress(OSError):
                left.bind(str(daemon.socket))  # as one that is killed with all its processes leaves it
        agent.kill()
    daemon.start()


SETTINGS = Settings(
    *(None, None, None, (), (), None, None, "wait", False, False, None, False, (), {}, None, None, False)
)


def test_a_service_that_starts_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(watching, "SOCKET", path)
    monkeypatch.delenv("AGENTWATCH_SOCKET", raising=False)
    assert SETTINGS.daemon() is None
    with Cgroup("service") as cgroup, cgroup.popen(["sleep", "60"]) as service:
        eventually(cgroup.pids)
        monkeypatch.setattr(watching, "_SERVICE", cgroup.path.name)
        looked: list[float] = []

        def sleep(seconds: float) -> None:
            looked.append(seconds)
            if len(looked) == 3:
                server.bind(str(path))
                server.listen()
                greeting.start()

        monkeypatch.setattr(time, "sleep", sleep)
        with socket.socket(socket.AF_UNIX) as server:
            hello = b'{"protocol": %d, "role": "act"}\n' % PROTOCOL
            greeting = threading.Thread(target=lambda: server.accept()[0].sendall(hello))
            assert SETTINGS.daemon() == path
            greeting.join()
        assert len(looked) == 3
        service.kill()


def test_a_service_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "control.sock"
    monkeypatch.setattr(watching, "SOCKET", path)
    monkeypatch.setattr(watching, "_STARTING", 0.0)
    monkeypatch.setattr(watching, "_service_runs", lambda: True)
    monkeypatch.delenv("AGENTWATCH_SOCKET", raising=False)
    assert SETTINGS.daemon() is None
    told = f"agentwatch: no daemon answers at {path}: No such file or directory"
    assert capsys.readouterr().err == f"{told}: watching alone, in mode monitor\n"


def test_a_daemon_that_is_not_understood_is_said(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.create_server(str(path), family=socket.AF_UNIX) as server:
        other = threading.Thread(target=lambda: server.accept()[0].sendall(b'{"protocol": 99}\n'))
        other.start()
        done = run("--socket", path, "--", "true")
        other.join()
    assert done.returncode == 1
    assert "Error: the daemon speaks protocol 99 (--alone" in done.stderr


def test_an_agent_cannot_leave_by_a_run_of_its_own(daemon: Service) -> None:
    inner = [sys.executable, "-m", "agentwatch", "run", "--name", "inner", "--", "true"]
    done = run("--name", "outer", "--", *inner)
    assert done.returncode == 4
    assert "agent outer may not act on agents" in done.stderr


def test_attach_has_the_daemon_watch_and_it_goes_on(daemon: Service, begin: Begin) -> None:
    with Cgroup("attached") as cgroup:
        agent = cgroup.popen([PYTHON, "-c", CONNECT], stdin=subprocess.PIPE)
        eventually(cgroup.pids)
        watch = begin("attach", "--name", "old", cgroup.path)
        await_line(watch.stderr, "the daemon watches it as agent old")
        await_line(watch.stderr, "running")
        assert agent.stdin is not None
        agent.stdin.write(b"\n")
        agent.stdin.flush()
        said = await_line(watch.stderr, "frozen and waits")
        assert "Connect to port one: frozen in" in said
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=30)
        assert watch.returncode == 3  # left frozen
        assert daemon.agent("old")["state"] == "paused"
        again = begin("attach", cgroup.path)
        _, said = again.communicate(timeout=30)
        assert (again.returncode, "of agent old" in said) == (1, True)
        daemon.ask("detach", agent="old")
        watch = begin("attach", "--mode", "monitor", agent.pid)
        await_line(watch.stderr, "paused")
        name = cgroup.path.name
        assert daemon.agent(name)["mode"] == "monitor"
        daemon.ask("kill", agent=name)
        assert watch.wait(30) == 0  # nothing is left in it
        watch.communicate()
        agent.communicate()
