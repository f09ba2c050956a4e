"""Bounds on a scenario, and what killed runs have left of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.scoreboard.limits import PIDS, limited
from tests.lab import Cgroup

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def first_version(controller: str) -> Path | None:
    """Where a controller of cgroup v1 is mounted, if anywhere."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup" and controller in options.split(","):
            return Path(target)
    return None


def test_the_number_of_processes_is_bounded() -> None:
    with Cgroup("limits") as cgroup:
        process = cgroup.popen(["sleep", "60"])
        with limited("agentwatch-scoreboard-test1", cgroup.path, [process.pid]) as kinds:
            if "pids" not in kinds:
                pytest.skip("no pids controller here")
            folder = first_version("pids")
            here = folder / "agentwatch-scoreboard-test1" if folder else cgroup.path
            assert (here / "pids.max").read_text().strip() == str(PIDS)
        assert not folder or not here.exists()
        process.kill()
        process.wait()


def test_what_a_killed_run_left_is_removed() -> None:
    folder = first_version("pids")
    if folder is None:
        pytest.skip("no cgroup v1 here")
    left = folder / "agentwatch-limits-999999999"  # no process has this number: PID_MAX_LIMIT is 2^22
    left.mkdir(exist_ok=True)
    with Cgroup("limits") as cgroup, limited(f"agentwatch-limits-{os.getpid()}", cgroup.path, []):
        assert not left.exists()
