"""Markers that come to a daemon: by an operator, a file, and the agent's own processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentwatch.control.client import Client
from agentwatch.control.protocol import ProtocolError
from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# For each line that comes, says so to the socket and starts a program.
TALKER = """
import socket, subprocess, sys
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for line in sys.stdin:
    out.sendto(eval(line), sys.argv[1])
    input()
    subprocess.run(["/bin/true"])
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as made:
        yield made


class Talker:
    """An agent that says what it is told to say."""

    def __init__(self, daemon: Service, cgroup: Cgroup) -> None:
        self.daemon = daemon
        command = [sys.executable, "-uc", TALKER, str(daemon.folder / "markers.sock")]
        self.process = cgroup.popen(command, stdin=subprocess.PIPE)
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="talker")
        self.client = Client(daemon.socket)
        self.events = self.client.follow("events", agent="talker", category="process_creation")
        next(self.events)

    def say(self, data: bytes) -> None:
        self._put(repr(data))

    def _put(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def markers(self) -> list[str]:
        """Those of the next program that it starts."""
        self._put("")
        event: dict[str, Any] = next(self.events)[0]
        return list(event["fields"]["Markers"])


@pytest.fixture
def talker(daemon: Service) -> Iterator[Talker]:
    with Cgroup("talker") as cgroup:
        made = Talker(daemon, cgroup)
        yield made
        made.client.close()
        made.process.kill()
        made.process.wait()


def recorded(daemon: Service, name: str) -> bool:
    """Whether a marker of this name was folded, as far as the daemon shows."""
    return any(name in one["markers"] for one in daemon.ask("ps", agent="talker")["processes"])


def test_a_process_speaks_for_itself_and_for_its_agent(talker: Talker) -> None:
    talker.say(b"tool=grep\nstep=1")
    eventually(lambda: recorded(talker.daemon, "step"))
    assert talker.markers() == ["step=1", "tool=grep"]
    talker.say(b"agent\nepisode=3")
    eventually(lambda: recorded(talker.daemon, "episode"))
    assert talker.markers() == ["episode=3", "step=1", "tool=grep"]


def test_an_operator_and_a_file_set_markers_that_the_agent_cannot_change(talker: Talker) -> None:
    talker.daemon.ask("mark", agent="talker", markers={"run": "7"})
    talker.say(b"run=8\nmine=yes")
    eventually(lambda: recorded(talker.daemon, "mine"))
    assert talker.markers() == ["mine=yes", "run=7"]
    (talker.daemon.folder / "markers" / "talker").write_text("host=a\n")
    eventually(lambda: recorded(talker.daemon, "host"))
    talker.say(b"\xff no marker")
    assert talker.markers() == ["host=a", "mine=yes", "run=7"]


def test_bad_markers_and_strangers_change_nothing(talker: Talker) -> None:
    with pytest.raises(ProtocolError, match="names no marker"):
        talker.daemon.ask("mark", agent="talker", markers={"\x1b[2J": "7"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"agent\nrun=9", str(talker.daemon.folder / "markers.sock"))
    (talker.daemon.folder / "markers" / "talker").write_text("no marker\n")
    eventually(lambda: "cannot be read" in talker.daemon.said())
    talker.say(b"done=1")
    eventually(lambda: recorded(talker.daemon, "done"))
    assert talker.markers() == ["done=1"]
