"""The daemon finds agents by itself: cgroups as they are, processes in cgroups of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import find_mount, of_process
from tests.daemon.configured import configured, find, running, table
from tests.daemon.service import LOOP
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def variable(name: str) -> str:
    return f"AGENTWATCH_TEST_{name}_{os.getpid()}"


def test_a_cgroup_that_runs_and_one_that_comes_are_found_as_they_are(tmp_path: Path) -> None:
    with Cgroup("found-a") as first, running(first, LOOP):
        eventually(first.pids)
        glob = f"agentwatch-found-?-{os.getpid()}"
        with configured(tmp_path, table("jobs", f'cgroup = ["{glob}"]', 'mode = "enforce"')) as daemon:
            found = find(daemon, first.path.name)
            assert (found["cgroup"], found["mode"]) == (first.path.name, "enforce")
            with Cgroup("found-b") as second, running(second, LOOP):
                assert find(daemon, second.path.name)["cgroup"] == second.path.name
            eventually(lambda: len(daemon.ask("agents")) == 1)
            assert f"[[agent]] jobs: cgroup {glob}" in daemon.said()


def test_a_process_gets_a_cgroup_of_its_own_below_its_present_one(tmp_path: Path) -> None:
    mark = variable("OWN")
    select = f'env = ["{mark}=yes*"]'
    with Cgroup("shared") as shared, running(shared, LOOP) as other:
        eventually(shared.pids)
        tree = ["env", f"{mark}=yes/indeed", "sh", "-c", "sleep 600 & sleep 600 & wait"]
        with (
            configured(tmp_path, table("marked", select, 'name = "{cgroup}-tree"')) as daemon,
            running(shared, tree) as marked,
        ):
            name = f"{shared.path.name}-tree"
            found = find(daemon, name)
            assert found["cgroup"] == f"{shared.path.name}/{name}.agentwatch"
            own = find_mount() / found["cgroup"]
            eventually(lambda: len((own / "cgroup.procs").read_text().split()) == 3)
            assert of_process(marked.pid) == own
            assert of_process(other.pid) == shared.path
            assert daemon.ask("kill", agent=name)["processes"] == 0
            marked.wait()
            eventually(lambda: not own.exists())
            assert other.poll() is None


def test_a_process_that_ran_before_is_found_and_one_alone_keeps_its_cgroup(tmp_path: Path) -> None:
    mark = variable("ALONE")
    with Cgroup("alone") as cgroup, running(cgroup, LOOP, env={**os.environ, mark: "1"}):
        eventually(cgroup.pids)
        with configured(tmp_path, table("alone", f'env = ["{mark}=1"]', 'name = "alone"')) as daemon:
            assert find(daemon, "alone")["cgroup"] == cgroup.path.name
            assert len(daemon.ask("agents")) == 1  # what it starts is of the same tree


def test_users_and_ancestors_select(tmp_path: Path) -> None:
    with Cgroup("users") as cgroup:
        select = f'user = ["nobody"]\nancestor = ["sh"]\ncgroup = ["{cgroup.path.name}"]'
        with (
            running(cgroup, LOOP) as other,
            configured(tmp_path, table("nobody", select, 'name = "{user}-{exe}"')) as daemon,
            running(cgroup, ["sh", "-c", "setpriv --reuid nobody --clear-groups sleep 600; exit"]) as shell,
        ):
            found = find(daemon, "nobody-sleep")
            assert found["cgroup"].endswith("nobody-sleep.agentwatch")
            (pid,) = (find_mount() / found["cgroup"] / "cgroup.procs").read_text().split()
            assert int(pid) not in (shell.pid, other.pid)
            daemon.ask("kill", agent="nobody-sleep")
            eventually(lambda: not (find_mount() / found["cgroup"]).exists())


def test_a_label_in_the_working_directory_names_the_agent(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".agent").write_text("crawler 7\n")
    with Cgroup("label") as cgroup:
        select = f'label = ".agent"\ncgroup = ["{cgroup.path.name}"]'
        with (
            configured(tmp_path, table("labelled", select)) as daemon,
            running(cgroup, ["sleep", "600"], cwd=tmp_path / "home"),
        ):
            assert find(daemon, "crawler")["cgroup"] == cgroup.path.name


def test_the_tree_of_run_is_not_taken_twice(tmp_path: Path) -> None:
    mark = variable("RUN")
    with configured(tmp_path, table("marked", f'env = ["{mark}=1"]', 'name = "{exe}"')) as daemon:
        command = [sys.executable, "-m", "agentwatch", "run", "--", "env", f"{mark}=1", "sh", "-c"]
        command.append("echo up; read end; sleep 0")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as runner:
            assert runner.stdout is not None and runner.stdin is not None
            assert runner.stdout.readline() == b"up\n"
            with Cgroup("beside") as cgroup, running(cgroup, ["env", f"{mark}=1", "sleep", "600"]):
                find(daemon, "sleep")
                assert [one["name"] for one in daemon.ask("agents")] == ["sleep"]
            runner.stdin.write(b"\n")
            runner.stdin.close()
            assert runner.wait(20) == 0


def test_what_was_found_is_taken_up_once_by_the_next_daemon(tmp_path: Path) -> None:
    mark = variable("AGAIN")
    with (
        Cgroup("again") as cgroup,
        running(cgroup, LOOP),
        running(cgroup, ["sleep", "600"], env={**os.environ, mark: "1"}) as marked,
    ):
        eventually(lambda: len(cgroup.pids()) > 1)
        with configured(tmp_path, table("again", f'env = ["{mark}=1"]', 'name = "again"')) as daemon:
            before = find(daemon, "again")
            daemon.ask("pause", agent="again")
            eventually(lambda: '"paused": true' in (tmp_path / "agents.json").read_text())
            daemon.kill()
            daemon.start()
            assert [(one["name"], one["state"]) for one in daemon.ask("agents")] == [("again", "paused")]
            assert daemon.agent("again")["cgroup"] == before["cgroup"]
            daemon.ask("kill", agent="again")
            marked.wait()
            eventually(lambda: not (find_mount() / before["cgroup"]).exists())
