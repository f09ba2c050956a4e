"""Hosts are reachable from inside their lab, from nowhere else, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.demo import hosts
from agentwatch.demo.hosts import PYTHON, Lab, LabError
from tests.lab import eventually, needs_root

WEB = [*PYTHON, "-m", "agentwatch.demo.web"]
FETCH = [
    sys.executable,
    "-c",
    "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())",
]


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def fetch(lab: Lab, address: str) -> str:
    return subprocess.run(
        lab.inside([*FETCH, f"http://{address}/"]), capture_output=True, text=True, timeout=20, check=True
    ).stdout


@needs_root
@pytest.mark.parametrize("isolated", [True, False])
def test_host_answers_over_both_protocols_and_is_gone_afterwards(isolated: bool) -> None:
    before = interfaces(), mounts()
    with Lab(isolated=isolated) as lab:
        web = lab.start("web", WEB)
        assert "42" in fetch(lab, web.ipv4)
        if web.ipv6:
            assert "42" in fetch(lab, f"[{web.ipv6}]")
        assert (interfaces() == before[0]) == isolated
        work = lab.work
    assert (interfaces(), mounts()) == before
    assert web.process.poll() is not None
    assert not work.exists()


@needs_root
def test_hosts_do_not_reach_each_other() -> None:
    with Lab() as lab:
        first, second = lab.start("first", WEB), lab.start("second", WEB)
        enter = ["nsenter", f"--net=/proc/{first.process.pid}/ns/net"]
        attempt = subprocess.run([*enter, *FETCH, f"http://{second.ipv4}/"], capture_output=True, check=False)
        assert b"unreachable" in attempt.stderr


@needs_root
def test_everything_dies_with_a_maker_that_is_killed() -> None:
    maker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import json, time; from agentwatch.demo.hosts import *\n"
            f"lab = Lab(isolated=False).__enter__(); host = lab.start('web', {WEB!r})\n"
            "print(json.dumps([host.process.pid, str(lab.work)]), flush=True); time.sleep(600)",
        ],
        stdout=subprocess.PIPE,
        cwd=Path(hosts.__file__).parents[2],
    )
    assert maker.stdout
    pid, work = json.loads(maker.stdout.readline())
    assert f"aw{pid}" in interfaces()
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    eventually(lambda: f"aw{pid}" not in interfaces())
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    for left in sorted(Path(work).rglob("*"), reverse=True):
        left.unlink()
    Path(work).rmdir()


@needs_root
def test_service_that_fails_is_reported_with_its_last_words() -> None:
    with Lab() as lab, pytest.raises(LabError, match=re.escape("no such luck")):
        lab.start("broken", [sys.executable, "-c", "raise SystemExit('no such luck')"])


def test_networks_avoid_what_is_routed_already() -> None:
    routes = json.dumps(
        [
            {"dst": "default"},
            {"dst": "10.77.5.0/24"},
            {"dst": "fd61:7761:78::/64"},
            {"dst": "10.79.0.1"},
            {"type": "local", "dst": "127.0.0.1"},
        ]
    )
    net4, net6 = hosts._free_networks(routes)
    assert (str(net4), str(net6)) == ("10.80.0.0/16", "fd61:7761:80::/48")


def test_networks_run_out_with_a_word() -> None:
    with pytest.raises(LabError, match="no free address range"):
        hosts._free_networks(json.dumps([{"dst": "10.0.0.0/8"}]))


def test_lab_without_isolation_runs_commands_as_they_are() -> None:
    assert Lab(isolated=False).inside(["true", str(os.getpid())]) == ["true", str(os.getpid())]
