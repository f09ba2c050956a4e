from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from agentwatch.kernel.cgroup import Cgroup
from agentwatch.respond import cgroup as module
from agentwatch.respond.cgroup import CgroupControl, Result
from tests.cgroups import FORKER, IGNORER, SLEEPER, SPINNER, fresh_cgroup, member, needs_root

pytestmark = [pytest.mark.root, needs_root]


@pytest.fixture
def agent() -> Iterator[Cgroup]:
    with fresh_cgroup() as cgroup:
        yield cgroup


@pytest.fixture
def control(agent: Cgroup) -> Iterator[CgroupControl]:
    with CgroupControl(agent) as control:
        yield control


@pytest.fixture(params=["cgroup.kill", "pidfd"])
def killer(request: pytest.FixtureRequest, agent: Cgroup, monkeypatch: pytest.MonkeyPatch) -> CgroupControl:
    """Both ways to kill: by the kernel's file, and as before 5.14."""
    if request.param == "pidfd":
        monkeypatch.setattr(module, "_KILL_FILE", "cgroup.no_such_file")
    return CgroupControl(agent)


def cpu_time(process: subprocess.Popen[str]) -> int:
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:  # noqa: PTH123
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


@pytest.mark.parametrize("code", [SLEEPER, SPINNER])
def test_freezing_waits_until_the_kernel_says_so(agent: Cgroup, control: CgroupControl, code: str) -> None:
    with member(agent, code):
        outcome = control.freeze()
        assert outcome.result is Result.DONE
        assert 0 < outcome.written_ns <= outcome.settled_ns
        assert control.frozen()


def test_the_frozen_do_not_run_and_the_thawed_do(agent: Cgroup, control: CgroupControl) -> None:
    with member(agent, SPINNER) as process:
        control.freeze()
        before = cpu_time(process)
        with subprocess.Popen(["/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]) as other:
            other.wait()
        assert cpu_time(process) == before
        assert control.thaw().result is Result.DONE
        assert not control.frozen()
        while cpu_time(process) == before:
            pass


def test_without_time_to_wait_the_order_is_given_all_the_same(agent: Cgroup, control: CgroupControl) -> None:
    with member(agent, SPINNER):
        outcome = control.freeze(limit_s=0)
        assert outcome.written_ns > 0
        assert outcome.result in (Result.PENDING, Result.DONE)
        while not control.frozen():
            pass


def test_an_empty_cgroup_freezes(control: CgroupControl) -> None:
    assert control.freeze().result is Result.DONE


@pytest.mark.parametrize("code", [SLEEPER, SPINNER, IGNORER, FORKER])
def test_killing_leaves_nobody(agent: Cgroup, killer: CgroupControl, code: str) -> None:
    with member(agent, code) as process:
        outcome = killer.kill()
        assert outcome.result is Result.DONE
        assert 0 < outcome.written_ns <= outcome.settled_ns
        assert process.wait() == -signal.SIGKILL
        assert not agent.populated()
        agent.remove()


def test_the_frozen_are_killed_too(agent: Cgroup, killer: CgroupControl) -> None:
    with member(agent) as process:
        killer.freeze()
        assert killer.kill().result is Result.DONE
        assert process.wait() == -signal.SIGKILL


def test_members_of_inner_cgroups_are_killed(agent: Cgroup, killer: CgroupControl) -> None:
    (agent.path / "in").mkdir()
    with Cgroup(agent.path / "in") as inner, member(inner) as process:
        assert killer.kill().result is Result.DONE
        assert process.wait() == -signal.SIGKILL


def test_a_fork_bomb_is_killed(agent: Cgroup, killer: CgroupControl) -> None:
    code = (
        "import os\nprint('ready', flush=True)\n"
        "for n in range(10**6):\n"
        "    pid = os.fork()\n"
        "    if pid: os._exit(0)\n"
    )
    with member(agent, code):
        assert killer.kill().result is Result.DONE
        assert agent.pids() == []


def test_nobody_outside_is_signalled(agent: Cgroup, killer: CgroupControl) -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as bystander, member(agent):
        killer.kill()
        assert bystander.poll() is None
        bystander.kill()


def test_a_removed_cgroup_is_gone(agent: Cgroup, killer: CgroupControl) -> None:
    agent.remove()
    for outcome in (killer.freeze(), killer.thaw(), killer.kill()):
        assert outcome.result is Result.GONE
        assert outcome.error


def test_a_closed_control_reports_failure(agent: Cgroup) -> None:
    control = CgroupControl(agent)
    control.close()
    control.close()
    assert control.freeze().result is Result.FAILED


def test_closing_leaves_no_descriptor(agent: Cgroup) -> None:
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    CgroupControl(agent).close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
