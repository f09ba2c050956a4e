"""The agent takes its steps for real, and goes on after having been frozen in any of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from agentwatch.demo.__main__ import agent_command, prepare
from agentwatch.demo.agent import STEPS, Task
from agentwatch.demo.hosts import Lab
from agentwatch.demo.materials import clean_environment
from tests.lab import Cgroup, needs_root

SAID = {
    "clone": "clone",
    "install": "pip",
    "fetch": "HTTP",
    "tunnel": "The outside came in",
    "mine": "The pool gave me jobs",
}


def test_task_reads_back(tmp_path: Path) -> None:
    task = Task("f", "r", "w", "p", "http://x/", ["-i", "k"], 9000, ("10.0.0.1", 3333))
    task.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == task
    assert task.steps == list(STEPS)


@needs_root
def test_every_step_succeeds() -> None:
    with Lab() as lab:
        done = subprocess.run(
            lab.inside(agent_command(prepare(lab))),
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for words in SAID.values():
            assert words in done.stdout
        folder = lab.work / "agent"
        assert (folder / "project" / "train.py").exists()
        assert (folder / "packages" / "tidings.py").exists()


@needs_root
@pytest.mark.parametrize("step", ["fetch", "tunnel", "mine"])
def test_step_survives_being_frozen_at_every_moment(step: str) -> None:
    """Frozen and thawed over and over, the step takes longer and ends the same."""
    with Lab() as lab, Cgroup(f"agent-{step}") as cgroup:
        command = lab.inside(agent_command(prepare(lab, [step])))
        with cgroup.popen(command, env=clean_environment(), stdout=subprocess.PIPE) as process:
            while process.poll() is None:
                cgroup.freeze()
                cgroup.freeze(False)
                try:
                    process.wait(0.02)
                except subprocess.TimeoutExpired:
                    continue
            assert process.stdout
            assert SAID[step] in process.stdout.read().decode()
            assert process.returncode == 0


@needs_root
def test_failed_step_is_told_and_does_not_keep_the_next(tmp_path: Path) -> None:
    task = Task(
        folder=str(tmp_path / "agent"),
        repository=str(tmp_path / "nowhere"),
        wheels=str(tmp_path),
        package="nothing",
        page="http://127.0.0.1:1/",
        ssh=[],
        forward_port=1,
        pool=("127.0.0.1", 1),
        steps=["clone", "fetch"],
    )
    task.write(tmp_path / "task.json")
    done = subprocess.run(
        agent_command(tmp_path / "task.json"),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "git ended with 128" in done.stdout
    assert "refused" in done.stdout
