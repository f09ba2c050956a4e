"""The daemon under a configuration: it finds agents by itself, limits what rules say, and reloads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentwatch.control.client import Client
from agentwatch.kernel.cgroup import find_mount, of_process
from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LOOP = ["sh", "-c", "while :; do sleep 0.05; done"]
SLEEPS = """
title: sleeps
id: 11111111-1111-4111-8111-111111111111
level: low
logsource:
  category: process_creation
  product: linux
detection:
  selection:
    Image|endswith: /sleep
  condition: selection
"""


def write(folder: Path, *tables: str, **top: str) -> Path:
    """A configuration in a folder; its path."""
    path = folder / "agentwatch.toml"
    path.write_text("\n".join([*(f"{key} = {value}" for key, value in top.items()), *tables]))
    return path


def table(id: str, select: str, *lines: str) -> str:
    return "\n".join(["[[agent]]", f'id = "{id}"', *lines, "[agent.select]", select])


@contextmanager
def configured(folder: Path, *tables: str) -> Iterator[Service]:
    with service(folder, "--config", str(write(folder, *tables))) as made:
        yield made


@contextmanager
def running(cgroup: Cgroup, command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command inside a cgroup, killed at the end."""
    with cgroup.popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def find(daemon: Service, name: str) -> dict[str, Any]:
    """An agent, as soon as the daemon has found it."""

    def found() -> dict[str, Any] | None:
        return next((one for one in daemon.ask("agents") if one["name"] == name), None)

    agent = eventually(found, 20)
    assert agent is not None
    return agent


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


def test_a_policy_leaves_rules_out_and_a_reload_lets_them_speak(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "sleep.yml").write_text(SLEEPS)
    rules = f'[rules]\npaths = ["{tmp_path / "rules"}"]'
    with Cgroup("quiet") as cgroup, running(cgroup, LOOP):
        eventually(cgroup.pids)
        select = f'cgroup = ["{cgroup.path.name}"]'
        quiet = table("quiet", select, 'name = "quiet"', "without = ['11111111-1111-4111-8111-111111111111']")
        with configured(tmp_path, rules, quiet) as daemon, Client(daemon.socket) as client:
            find(daemon, "quiet")
            events = client.follow("events", agent="quiet", category="process_creation")
            next(events)
            for _ in range(3):
                next(events)  # what the rule would match has gone through
            assert daemon.ask("alerts")["alerts"] == []
            write(tmp_path, rules, table("quiet", select, 'name = "other"', 'mode = "enforce"'))
            daemon.process.send_signal(signal.SIGHUP)
            eventually(lambda: daemon.ask("alerts")["alerts"])
            found = daemon.agent("quiet")  # its name stays
            assert (found["mode"], found["lost"]) == ("enforce", 0)


MANY_RUNS = "read go; i=0; while [ $i -lt 200 ]; do /bin/true $i; i=$((i+1)); done; read end"


def test_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "true.yml").write_text(SLEEPS.replace("sleep", "true"))
    rules = f'[rules]\npaths = ["{tmp_path / "rules"}"]'
    with Cgroup("load") as cgroup, running(cgroup, ["sh", "-c", MANY_RUNS], stdin=-1) as process:
        eventually(cgroup.pids)
        modes = [
            table("load", f'cgroup = ["{cgroup.path.name}"]', 'name = "load"', f'mode = "{mode}"')
            for mode in ("monitor", "enforce")
        ]
        with configured(tmp_path, rules, modes[0]) as daemon:
            find(daemon, "load")
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            for turn in range(1, 8):
                write(tmp_path, rules, modes[turn % 2])
                daemon.process.send_signal(signal.SIGHUP)
                mode = ("monitor", "enforce")[turn % 2]
                eventually(lambda mode=mode: daemon.agent("load")["mode"] == mode)  # type: ignore[misc]
            eventually(lambda: len(daemon.ask("alerts")["alerts"]) == 200, 30)
            alerts = daemon.ask("alerts")["alerts"]
            assert [alert["process"]["cmdline"] for alert in alerts] == [f"/bin/true {n}" for n in range(200)]
            assert {alert["mode"] for alert in alerts} == {"monitor", "enforce"}
            assert daemon.ask("status")["lost"] == {}


def test_a_bad_configuration_is_named_and_the_one_before_stays(tmp_path: Path) -> None:
    with Cgroup("stays") as cgroup, running(cgroup, LOOP):
        eventually(cgroup.pids)
        select = f'cgroup = ["{cgroup.path.name}"]'
        with configured(tmp_path, table("stays", select, 'name = "stays"')) as daemon:
            find(daemon, "stays")
            write(tmp_path, table("stays", select, 'mod = "enforce"'))
            daemon.ask("reload")
            eventually(lambda: "the configuration before stays in force" in daemon.said())
            assert "agent.stays.mod: is unknown; is it mode?" in daemon.said()
            write(tmp_path, table("stays", select, 'mode = "enforce"'), run_dir=f'"{tmp_path / "other"}"')
            daemon.ask("reload")
            eventually(lambda: daemon.agent("stays")["mode"] == "enforce")


def test_limits_are_written_or_it_is_said_why_not(tmp_path: Path) -> None:
    with Cgroup("limits") as cgroup, running(cgroup, LOOP):
        eventually(cgroup.pids)
        limits = "[agent.limits]\npids_max = 77"
        select = f'cgroup = ["{cgroup.path.name}"]'
        with configured(tmp_path, table("limits", select, 'name = "limits"') + "\n" + limits) as daemon:
            find(daemon, "limits")
            file = cgroup.path / "pids.max"
            if file.exists():
                eventually(lambda: file.read_text() == "77\n")
            else:
                eventually(lambda: "its controller is not enabled" in daemon.said())


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
