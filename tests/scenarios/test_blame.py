"""`blame` over recordings of the demonstration's tunnel, its tool call told by a marker in each way there is.

Everything is real: the demonstration's agent, ssh and server, the probes, `run` or the daemon.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentwatch.demo.__main__ import agent_command, prepare
from agentwatch.demo.hosts import Lab
from agentwatch.demo.materials import clean_environment
from tests.daemon.configured import running
from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

HERE = str(Path(__file__).parents[2])
OPENED = "Agent Opens an SSH Connection With a Remote Forward"
# An agent that says which tool it calls next, and calls it when a line comes.
AGENT = """
import socket, subprocess, sys
if sys.argv[1]:
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    out.sendto(b"tool=open_tunnel\\ncall=17", sys.argv[1])
input()
subprocess.run(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def tunnel(lab: Lab) -> list[str]:
    """The command of the demonstration's agent, told to open its tunnel."""
    return lab.inside(agent_command(prepare(lab, ["tunnel"])))


def agentwatch(*arguments: str | Path, **environment: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "agentwatch", *map(str, arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        env=clean_environment() | {"PYTHONPATH": HERE} | environment,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blamed(trace: Path) -> dict[str, Any]:
    """The story of the alert about the tunnel."""
    alerts = [json.loads(line) for line in agentwatch("replay", trace).splitlines()]
    (number,) = (n for n, alert in enumerate(alerts, 1) if alert["rule"]["title"] == OPENED)
    story: dict[str, Any] = json.loads(agentwatch("blame", "--alert", str(number), "--json", trace))
    return story


def check_steps(story: dict[str, Any], root: str) -> None:
    """From the root command to ssh, each fork followed by its program, then what ssh did."""
    steps = story["steps"]
    chain = [step for step in steps if step["kind"] in ("fork", "exec")]
    assert chain[0]["kind"] == "exec" and root in " ".join(chain[0]["facts"]["argv"])
    assert chain[-1]["facts"]["exe"].endswith("/ssh") and "-R" in chain[-1]["facts"]["argv"]
    assert chain[-1]["pid"] == story["pid"]
    maker = chain[0]["pid"]
    for step in chain:
        if step["kind"] == "fork":
            assert step["text"] == f"forked by {maker}"
            maker = step["pid"]
        assert step["pid"] == maker
    (spoke,) = (s for s in steps if s["kind"] == "connect" and s["facts"]["remote"].endswith(":22"))
    assert spoke["facts"]["bytes_out"] > 0 and spoke["facts"]["bytes_in"] > 0
    (alert,) = (step for step in steps if step["kind"] == "alert")
    assert "response pause, done: pause" in alert["text"]
    assert any(step["kind"] == "act" and step["text"].startswith("resume by ") for step in steps)


def test_a_marker_in_the_environment_of_run(tunnel: list[str], tmp_path: Path) -> None:
    trace = tmp_path / "run.awt"
    options = ["--name", "demo", "--mode", "enforce", "--max-response", "pause", "--on-pause", "resume"]
    command = ["run", *options, "--record", str(trace), "--", *tunnel]
    agentwatch(*command, AGENTWATCH_MARKERS="episode=3,tool=open_tunnel")
    story = blamed(trace)
    assert story["tool_call"] == {"command": "open_tunnel", "known_by": "marker tool"}
    assert story["markers"] == {"episode": "3", "tool": "open_tunnel"}
    check_steps(story, "agentwatch.demo.agent")


@contextmanager
def through_daemon(folder: Path, tunnel: list[str], datagram: bool, *options: str) -> Iterator[Service]:
    """A daemon that records, when the agent has opened its tunnel, was resumed, and has ended."""
    with service(folder, "--record", *options) as daemon, Cgroup("blame") as cgroup:
        door = str(daemon.folder / "markers.sock") if datagram else ""
        command = ["sh", "-c", 'read -r _; "$@"; true', "sh", sys.executable, "-uc", AGENT, door, *tunnel]
        environment = clean_environment() | {"PYTHONPATH": HERE}
        with running(cgroup, command, stdin=subprocess.PIPE, env=environment) as shell:
            eventually(cgroup.pids)
            daemon.attach(cgroup, name="demo")
            assert shell.stdin is not None
            shell.stdin.write(b"\n")
            shell.stdin.flush()
            if not datagram:
                (daemon.folder / "markers" / "demo").write_text("episode=3\ntool=open_tunnel\n")
            eventually(lambda: marked(daemon), 20)
            shell.stdin.write(b"\n")
            shell.stdin.close()
            eventually(lambda: ended(daemon, shell), 60)
            eventually(lambda: all(one["name"] != "demo" for one in daemon.ask("agents")))
        yield daemon


def marked(daemon: Service) -> bool:
    return any("tool" in one["markers"] for one in daemon.ask("ps", agent="demo")["processes"])


def ended(daemon: Service, shell: subprocess.Popen[bytes]) -> bool:
    """Whether the agent has; it is resumed where it is frozen."""
    if shell.poll() is not None:
        return True
    if any(one["state"] == "paused" for one in daemon.ask("agents")):
        daemon.ask("resume", agent="demo")
    return False


@pytest.mark.parametrize("way", ["datagram", "file"])
def test_a_marker_that_comes_to_the_daemon(tunnel: list[str], tmp_path: Path, way: str) -> None:
    with through_daemon(tmp_path, tunnel, way == "datagram") as daemon:
        assert daemon.stop() == 0
    (recording,) = (tmp_path / "state" / "traces").glob("*.trace")
    incident, *_ = sorted((tmp_path / "state" / "incidents").glob("*.trace"))
    for trace in recording, incident:
        story = blamed(trace)
        assert story["tool_call"] == {"command": "open_tunnel", "known_by": "marker tool"}
        assert story["markers"] == {
            "tool": "open_tunnel",
            **({"call": "17"} if way == "datagram" else {"episode": "3"}),
        }
        check_steps(story, "read -r _")
