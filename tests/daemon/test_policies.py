"""Policies of agents, and their reload while the daemon watches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.control.client import Client
from tests.daemon.configured import configured, find, running, table, write
from tests.daemon.service import LOOP, SLEEPS
from tests.lab import Cgroup, eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


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


def test_a_limit_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with Cgroup("limits") as cgroup, running(cgroup, LOOP):
        if (cgroup.path / "pids.max").exists():
            pytest.skip("the controller pids is enabled here")
        eventually(cgroup.pids)
        select = f'cgroup = ["{cgroup.path.name}"]'
        wanted = "[agent.limits]\npids_max = 77"
        with configured(tmp_path, table("limits", select, 'name = "limits"'), wanted) as daemon:
            find(daemon, "limits")
            eventually(lambda: "its controller is not enabled" in daemon.said())
            assert daemon.agent("limits")["limits"] == [{"file": "pids.max", "wanted": "77", "stands": None}]
            command = [sys.executable, "-m", "agentwatch", "status", "--socket", str(daemon.socket)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert "no limit pids.max=77 for limits: its controller is not enabled there" in told


OPENED = """
title: "{registered}"
id: 11111111-1111-4111-8111-11111111111{digit}
level: low
logsource: {{product: agentwatch, category: gpu}}
detection:
  opened: {{Kind: device_open, Registered: '{registered}'}}
  condition: opened
"""


def test_a_policy_names_the_training_job(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    for digit, registered in enumerate(("false", "true")):
        text = OPENED.format(digit=digit, registered=registered)
        (tmp_path / "rules" / f"{registered}.yml").write_text(text)
    (tmp_path / "dev").mkdir()
    node, script = tmp_path / "dev" / "nvidiactl", tmp_path / "train.py"
    node.touch()
    script.write_text(f"open('{node}')\n")
    # Between the agent's first command and what opens the device stands the shell of a tool.
    tools = f'sh -c "/bin/cat {node}; /usr/bin/python3 {script}; :"'
    first = ["sh", "-c", f"read go; {tools}; read end"]
    with Cgroup("trains") as cgroup, running(cgroup, first, stdin=subprocess.PIPE) as job:
        eventually(cgroup.pids)
        select = f'cgroup = ["{cgroup.path.name}"]'
        jobs = table("jobs", select, 'name = "job"', f'training = ["{script}"]')
        with configured(tmp_path, f'[rules]\npaths = ["{tmp_path / "rules"}"]', jobs) as daemon:
            find(daemon, "job")
            assert job.stdin is not None
            job.stdin.write(b"go\n")
            job.stdin.flush()
            eventually(lambda: len(daemon.ask("alerts")["alerts"]) == 2)
            alerts = daemon.ask("alerts")["alerts"]
            told = [(one["process"]["cmdline"], one["rule"]["title"]) for one in alerts]
            assert told == [(f"/bin/cat {node}", "false"), (f"/usr/bin/python3 {script}", "true")]
