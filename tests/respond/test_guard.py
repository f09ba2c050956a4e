from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import PARENT, create, find_mount
from agentwatch.respond.cgroup import kill
from agentwatch.respond.guard import Guard
from tests.lab import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NAME = f"test-guard-{os.getpid()}"

WATCHER = textwrap.dedent(
    f"""
    import subprocess, time
    from agentwatch.kernel.cgroup import create
    from agentwatch.respond.guard import Guard
    cgroup = create("{NAME}")
    guard = Guard(cgroup)
    agent = subprocess.Popen(["sleep", "600"])
    cgroup.move(agent.pid)
    print(agent.pid, flush=True)
    time.sleep(600)
    """
)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_tree_and_cgroup_end_with_their_watcher(number: int) -> None:
    watcher = subprocess.Popen([sys.executable, "-c", WATCHER], stdout=subprocess.PIPE)
    assert watcher.stdout is not None
    agent = int(watcher.stdout.readline())
    path = find_mount() / PARENT / NAME
    assert path.is_dir()
    watcher.send_signal(number)
    watcher.wait()
    eventually(lambda: not path.exists())
    eventually(lambda: _ended(agent))


def _ended(pid: int) -> bool:
    """Gone, or waiting for init to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_dismissed_guard_leaves_everything() -> None:
    with create(NAME) as cgroup:
        guard = Guard(cgroup)
        with subprocess.Popen(["sleep", "60"]) as agent:
            cgroup.move(agent.pid)
            guard.dismiss()
            assert cgroup.populated()
            kill(cgroup)


def test_guard_survives_the_terminals_signals() -> None:
    with create(NAME) as cgroup, Guard(cgroup) as guard:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guard.pid, number)
        os.kill(guard.pid, 0)
