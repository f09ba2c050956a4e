"""Limits of policies in the kernel: what the seeker writes holds. Needs cgroup v2 with its controllers.

Where this host has them not: sudo ./dev vm --kernel 6.12-cloud tests/daemon/test_limits.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentwatch.config.model import Limits
from agentwatch.daemon.helper import Helper
from agentwatch.kernel.cgroup import controllers, find_mount
from tests.daemon.configured import running
from tests.daemon.service import LOOP
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@contextmanager
def limited(controller: str, limits: Limits) -> Iterator[Cgroup]:
    """An agent's cgroup, in which a controller is enabled as a host's manager would, with these limits."""
    root = find_mount()
    if controller not in controllers(root):
        pytest.skip(f"cgroup v2 has not the controller {controller} here")
    switch = root / "cgroup.subtree_control"
    was_on = controller in switch.read_text().split()
    switch.write_text(f"+{controller}")
    try:
        with Cgroup("limits") as cgroup:
            settings = {"tables": [], "agents": {str(cgroup.path): limits.files()}}
            seeker = Helper(settings, "agentwatch.daemon.discover", "the seeker of agents")
            seeker.receive()  # starts it
            try:
                yield cgroup
            finally:
                seeker.close()
    finally:
        if not was_on:
            switch.write_text(f"-{controller}")


def stands(cgroup: Cgroup, file: str, value: object) -> None:
    """Wait for a limit."""
    eventually(lambda: (cgroup.path / file).read_text() == f"{value}\n", 60)


def test_the_number_of_processes_is_limited() -> None:
    many = "read go; for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; exit 0"
    with (
        limited("pids", Limits(pids_max=4)) as cgroup,
        running(cgroup, ["sh", "-c", many], stdin=subprocess.PIPE) as process,
    ):
        stands(cgroup, "pids.max", 4)
        process.communicate(b"go\n", timeout=60)
        assert process.returncode != 0  # the shell could not fork
        assert len(cgroup.pids()) == 3


def test_memory_is_limited() -> None:
    fill = "input(); held = b'x' * (200 << 20)"
    with (
        limited("memory", Limits(memory_max="64M")) as cgroup,
        running(cgroup, [sys.executable, "-c", fill], stdin=subprocess.PIPE) as process,
    ):
        stands(cgroup, "memory.max", 64 << 20)
        process.communicate(b"go\n", timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert "oom_kill 1" in (cgroup.path / "memory.events").read_text()


def test_memory_is_taken_back_before_its_limit() -> None:
    fill = "input(); held = b'x' * (40 << 20)"
    with (
        limited("memory", Limits(memory_high="32M")) as cgroup,
        running(cgroup, [sys.executable, "-c", fill], stdin=subprocess.PIPE) as process,
    ):
        stands(cgroup, "memory.high", 32 << 20)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        eventually(lambda: "high 0" not in (cgroup.path / "memory.events").read_text(), 60)


def test_the_share_of_the_processor_is_set() -> None:
    with limited("cpu", Limits(cpu_weight=7)) as cgroup, running(cgroup, LOOP):
        stands(cgroup, "cpu.weight", 7)
