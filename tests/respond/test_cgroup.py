from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agentwatch.clock import now
from agentwatch.kernel.cgroup import Cgroup, create
from agentwatch.respond.cgroup import freeze, kill, thaw
from tests.lab import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with create(f"test-respond-{os.getpid()}") as made:
        yield made
        kill(made)


def start(cgroup: Cgroup, command: list[str]) -> subprocess.Popen[bytes]:
    """Run it from its first instruction in the cgroup, so that its children are in there too."""
    waits = ["sh", "-c", 'read _; exec "$@"', "sh", *command]
    process = subprocess.Popen(waits, stdin=subprocess.PIPE)
    cgroup.move(process.pid)
    assert process.stdin is not None
    process.stdin.close()
    return process


def test_freeze_waits_until_all_have_stopped(cgroup: Cgroup) -> None:
    spinning = [start(cgroup, [sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    before = now()
    outcome = freeze(cgroup)
    assert (outcome.result, outcome.error) == ("done", "")
    assert before < outcome.acted <= outcome.settled <= now()
    assert cgroup.frozen()
    kill(cgroup)
    for process in spinning:
        process.wait()


def test_freezing_twice_says_so(cgroup: Cgroup) -> None:
    process = start(cgroup, ["sleep", "60"])
    freeze(cgroup)
    assert freeze(cgroup).result == "already"
    assert thaw(cgroup).result == "done"
    assert not cgroup.frozen()
    process.kill()
    process.wait()


def test_kill_ends_a_frozen_tree(cgroup: Cgroup) -> None:
    process = start(cgroup, ["sh", "-c", "sleep 60 & sleep 60 & wait"])
    eventually(lambda: len(list(cgroup.processes())) == 3)
    freeze(cgroup)
    outcome = kill(cgroup)
    assert outcome.result == "done"
    assert outcome.settled
    assert not cgroup.populated()
    assert process.wait() == -9


def test_kill_without_the_kernels_help(cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Cgroup) -> None:
        raise FileNotFoundError(2, "no cgroup.kill before Linux 5.14")

    monkeypatch.setattr(Cgroup, "write_kill", missing)
    process = start(cgroup, ["sh", "-c", "sleep 60 & sleep 60 & wait"])
    eventually(lambda: len(list(cgroup.processes())) == 3)
    assert kill(cgroup).settled
    assert process.wait() == -9


# It ends by itself, too: whoever kills pytest does not know of it.
FLEES = """
import os, time
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""


def test_kill_without_the_kernels_help_catches_who_is_born_meanwhile(
    cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: Cgroup) -> None:
        raise FileNotFoundError(2, "no cgroup.kill before Linux 5.14")

    monkeypatch.setattr(Cgroup, "write_kill", missing)
    for _ in range(20):
        process = start(cgroup, [sys.executable, "-ISc", FLEES])
        process.wait()
        assert kill(cgroup).settled
        assert not cgroup.populated()
        thaw(cgroup)


def test_a_cgroup_that_is_gone_is_a_failure_told(cgroup: Cgroup) -> None:
    cgroup.path.rmdir()
    outcome = freeze(cgroup)
    assert outcome.result == "failed"
    assert outcome.error
