"""Selectors against processes that run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.config.model import AgentTable, Selector
from agentwatch.daemon.matching import Process, agent_name, matches, selects, takes_cgroups


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A script in a folder of its own, with a variable and a label."""
    (tmp_path / "tool.py").write_text("print('up', flush=True)\ninput()\n")
    (tmp_path / ".label").write_text("  crawler/1 more\n")
    environment = {**os.environ, "JOB_PATH": "/jobs/17", "EMPTY": ""}
    with subprocess.Popen(
        [sys.executable, "tool.py"],
        cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as made:  # fmt: skip
        assert made.stdout is not None and made.stdout.readline() == b"up\n"
        yield made
        made.kill()


@pytest.mark.parametrize(
    ("glob", "text", "fits"),
    [
        ("system.slice/docker-*.scope", "system.slice/docker-1.scope", True),
        ("system.slice/docker-*.scope", "system.slice/docker-1/x.scope", False),
        ("**/job_*", "slurm/uid_1/job_7", True),
        ("**/job_*", "slurm/uid_1/job_7/step_0", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a.c", "abc", False),
        ("[x]", "[x]", True),
        ("*", "line\nbreak", True),
        ("", "", True),
        ("a b\\c*", "a b\\cd", True),
        ("*", "\udcff", True),
        ("*x*y*z*" * 20, "xy" * 100_000, False),
    ],
)
def test_patterns(glob: str, text: str, fits: bool) -> None:
    assert matches(glob, text) is fits


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        (Selector(exe=(os.path.realpath(sys.executable),)), True),
        (Selector(exe=("python*",)), True),
        (Selector(exe=("tool.py",)), True),
        (Selector(exe=("/**/tool.py",)), False),  # it was named without its folder
        (Selector(exe=("perl", "ruby")), False),
        (Selector(env=("JOB_PATH=/jobs/*",)), True),
        (Selector(env=("EMPTY=",)), True),
        (Selector(env=("MISSING=",)), False),
        (Selector(env=("JOB_PATH=/jobs/1",)), False),
        (Selector(user=(str(os.getuid()),)), True),
        (Selector(user=("nobody-at-all",)), False),
        (Selector(ancestor=("python*",)), True),  # this test
        (Selector(ancestor=("tool.py",)), False),  # it is not above itself
        (Selector(label=".label"), True),
        (Selector(label=".none"), False),
        (Selector(label="/etc/passwd"), False),  # the host's root names nobody
        (Selector(exe=("tool.py",), env=("MISSING=*",)), False),
        (Selector(exe=("tool.py",), env=("JOB_PATH=*",), label=".label"), True),
    ],
)
def test_selectors(running: subprocess.Popen[bytes], selector: Selector, fits: bool) -> None:
    assert bool(selects(selector, Process(running.pid))) is fits
    assert not takes_cgroups(selector)


def test_a_process_that_is_gone_matches_nothing() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    process = Process(gone.pid)
    assert (process.exe, process.parent, process.environment.get("HOME"), process.cgroup) == ("", 0, None, "")
    for selector in (
        Selector(user=("root",)),
        Selector(exe=("*",)),
        Selector(env=("HOME=*",)),
        Selector(label="x"),
    ):
        assert selects(selector, process) == ""


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{label}", "crawler-1"),
        ("job-{job}-{exe}", "job-7-tool.py"),
        ("{container}", "agent"),
        ("", "crawler-1"),
        ("{cgroup}.{pid}", "step_0.PID"),
    ],
)
def test_names(running: subprocess.Popen[bytes], template: str, name: str) -> None:
    table = AgentTable(id="x", name=template, select=Selector(label=".label"))
    made = agent_name(table, "slurm/job_7/step_0", Process(running.pid))
    assert made == name.replace("PID", str(running.pid))


def test_names_without_a_process() -> None:
    table = AgentTable(id="x", select=Selector(cgroup=("**",)))
    assert agent_name(table, "system.slice/trainer.service", None) == "trainer"
    assert agent_name(table, "a/b c\n", None) == "b-c"
