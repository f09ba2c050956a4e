from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import Cgroup, create
from agentwatch.respond.cgroup import kill
from agentwatch.spawn import Child
from tests.lab import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class NoProbes:
    """Takes the tag of a process."""

    def __init__(self) -> None:
        self.tagged: list[tuple[int, int]] = []

    def tag(self, pid: int, agent: int) -> None:
        self.tagged.append((pid, agent))


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with create(f"test-spawn-{os.getpid()}") as made:
        yield made
        kill(made)


def start(cgroup: Cgroup, child: Child) -> NoProbes:
    probes = NoProbes()
    child.start(cgroup, probes, 1)  # type: ignore[arg-type]
    return probes


def test_nothing_runs_before_it_is_watched(cgroup: Cgroup, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with Child(
        ["sh", "-c", f"cat /proc/self/cgroup > {mark}"], capture=False, stdout_to_stderr=False
    ) as child:
        assert not mark.exists()
        probes = start(cgroup, child)
        assert child.wait() == 0
        assert probes.tagged == [(child.pid, 1)]
    assert cgroup.name in mark.read_text()


def test_command_that_is_never_let_go_ends() -> None:
    with Child(["sleep", "600"], capture=False, stdout_to_stderr=False) as child:
        pass
    assert child.wait() == 126


@pytest.mark.parametrize(
    ("command", "code", "reason"), [("/no/such", 127, "No such file"), ("/etc/passwd", 126, "denied")]
)
def test_command_that_cannot_run(cgroup: Cgroup, command: str, code: int, reason: str) -> None:
    with Child([command], capture=False, stdout_to_stderr=False) as child:
        start(cgroup, child)
        assert reason in child.failure()
        assert child.wait() == code


def test_signals_are_as_a_shell_leaves_them(cgroup: Cgroup) -> None:
    """The interpreter ignores SIGPIPE; a command that inherits that writes for ever into a closed pipe."""
    with Child(["sh", "-c", "yes | head -n 1 >/dev/null"], capture=False, stdout_to_stderr=False) as child:
        start(cgroup, child)
        assert child.wait() == 0


def test_captured_output_comes_in_lines(cgroup: Cgroup) -> None:
    with Child(
        ["sh", "-c", r"printf 'one\ntw'; printf 'o\n\377\n'; exec sleep 600"],
        capture=True,
        stdout_to_stderr=False,
    ) as child:
        start(cgroup, child)
        lines: list[str] = []

        def complete() -> bool:
            lines.extend(child.output())
            return len(lines) == 3

        eventually(complete)
        assert lines == ["one", "two", "\\xff"]
        kill(cgroup)
        assert child.wait() == 137


def test_no_descriptor_of_ours_reaches_the_command(cgroup: Cgroup, tmp_path: Path) -> None:
    listing = tmp_path / "fds"
    with Child(
        ["sh", "-c", f"ls -l /proc/self/fd > {listing}"], capture=False, stdout_to_stderr=False
    ) as child:
        start(cgroup, child)
        child.wait()
    bare = subprocess.run(
        ["sh", "-c", "ls /proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert len(listing.read_text().splitlines()) - 1 <= len(bare.stdout.split())
