from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import Cgroup, create, find_mount, sweep_stale
from agentwatch.respond.guard import Guard
from tests.cgroups import IGNORER, fresh_cgroup, member, needs_root, unused_name

pytestmark = [pytest.mark.root, needs_root]

# A watcher with a guarded agent, which tells the guard's pid and then waits.
WATCHER = """
import os, signal, sys
from agentwatch.kernel.cgroup import create
from agentwatch.respond.guard import Guard
from tests.cgroups import IGNORER, member
agent = create(sys.argv[1])
leak = os.memfd_create("stands-for-a-link")
guard = Guard(agent)
with member(agent, IGNORER) as process:
    print(guard.pid, process.pid, flush=True)
    signal.pause()
"""


def ended(pid: int) -> None:
    """Wait for the end of a process that is not a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([fd], [], [])
    os.close(fd)


def settled(guard: Guard) -> Guard:
    """Wait until it has let go of what it got from the watcher."""
    while "agentwatch-grd" not in Path(f"/proc/{guard.pid}/comm").read_text():
        pass
    return guard


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_watcher_that_dies_takes_its_agent_with_it(death: signal.Signals) -> None:
    name = unused_name()
    command = [sys.executable, "-c", WATCHER, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        guard, agent = map(int, watcher.stdout.readline().split())
        watcher.send_signal(death)
        watcher.wait()
    ended(guard)
    ended(agent)
    assert not (find_mount() / "agentwatch" / name).exists()


def test_a_dismissed_guard_touches_nothing() -> None:
    with fresh_cgroup() as agent, member(agent) as process:
        guard = Guard(agent)
        guard.dismiss()
        guard.dismiss()
        with pytest.raises(ProcessLookupError):
            os.kill(guard.pid, 0)
        assert process.poll() is None
        assert agent.path.exists()


def test_signals_from_the_terminal_do_not_reach_it() -> None:
    with fresh_cgroup() as agent, member(agent, IGNORER) as process:
        guard = settled(Guard(agent))
        assert os.getsid(guard.pid) == guard.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(guard.pid, number)
        guard.dismiss()
        assert process.poll() is None


def test_it_holds_nothing_of_the_watchers() -> None:
    """A link or a pipe that stayed open in it would keep programs attached and readers waiting."""
    with fresh_cgroup() as agent:
        kept = os.memfd_create("stands-for-a-link")
        guard = settled(Guard(agent))
        held = [str(link.readlink()) for link in Path(f"/proc/{guard.pid}/fd").iterdir()]
        guard.dismiss()
        os.close(kept)
    assert not [target for target in held if "memfd" in target]
    assert len([target for target in held if target.startswith("pipe:")]) == 1


def test_the_agents_lock_outlives_the_watcher_in_the_guard() -> None:
    """Until the guard has done its work another instance must not take the folder for left behind."""
    agent = create(unused_name())
    guard = Guard(agent)
    agent.close()
    assert agent.path.name not in sweep_stale().removed
    guard.dismiss()
    with Cgroup(agent.path):
        assert agent.path.name in sweep_stale().removed
