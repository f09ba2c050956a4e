"""What ssh is asked for and does with a remote forward, over a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentwatch.demo import sshd
from agentwatch.demo.hosts import Lab
from agentwatch.demo.sshd import VISITED_PORT
from tests.lab import PROGRAMS, eventually, script
from tests.lab.ssh import destination, local_forward_in_use
from tests.lab.telling import Watcher, write_rules

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

STAGES = ("asked", "opened", "established", "used")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def account(lab: Lab) -> sshd.Account:
    return sshd.start(lab)


@pytest.fixture
def watcher(lab: Lab, tmp_path: Path) -> Watcher:
    (tmp_path / "rules").mkdir()
    forwards = [("flow", f"Behaviour: remote_forward, Stage: {stage}") for stage in STAGES]
    others = [("flow", "Behaviour: tunnel_device"), ("flow", "Behaviour: [relay, reverse_shell]")]
    return Watcher(lab, write_rules(tmp_path / "rules", *forwards, *others), tmp_path)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Path]:
    """The path of a Unix socket behind which a service answers."""
    path = tmp_path / "service.sock"
    with subprocess.Popen([sys.executable, str(PROGRAMS / "joins.py"), "echo", str(path), "0"]) as server:
        eventually(path.exists)
        yield path
        server.kill()


def forward(account: sshd.Account, target: str, *more: str) -> list[str]:
    """ssh that lets the visitor in to `target`, for two seconds."""
    spec = f"127.0.0.1:{VISITED_PORT}:{target}"
    return ["timeout", "2", "ssh", "-N", "-R", spec, *account.options(), *more, destination(account)]


def stages(told: list[dict[str, Any]]) -> tuple[str, ...]:
    """In the order in which they were first told."""
    return tuple(dict.fromkeys(alert["event"]["Stage"] for alert in told))


def test_a_forward_goes_through_its_stages(account: sshd.Account, watcher: Watcher) -> None:
    assert stages(watcher(forward(account, "127.0.0.1:9"))) == STAGES


def test_a_forward_to_a_unix_socket(account: sshd.Account, watcher: Watcher, service: Path) -> None:
    told = watcher(forward(account, str(service)))
    assert stages(told) == STAGES
    assert told[-1]["event"]["LocalTarget"] == str(service)


def test_a_forward_through_a_proxy_command(account: sshd.Account, watcher: Watcher) -> None:
    proxy = " ".join(script("connect", "%h", "%p"))
    told = watcher(forward(account, "127.0.0.1:9", "-o", f"ProxyCommand={proxy}"))
    assert stages(told) == STAGES
    (opened,) = [alert for alert in told if alert["event"]["Stage"] == "opened"]
    assert opened["process"]["exe"] == "/usr/bin/ssh"
    assert opened["flow"]["remote"] == f"{account.host.ipv4}:{sshd.PORT}"


def test_a_tunnel_device_is_asked_for(account: sshd.Account, watcher: Watcher) -> None:
    told = watcher(["timeout", "1", "ssh", "-N", "-w", "any", *account.options(), destination(account)])
    assert {alert["event"]["Behaviour"] for alert in told} == {"tunnel_device"}


def test_honest_ssh_is_left_alone(account: sshd.Account, watcher: Watcher) -> None:
    proxy = " ".join(script("connect", "%h", "%p"))
    assert watcher(local_forward_in_use(account)) == []
    command = ["ssh", "-o", f"ProxyCommand={proxy}", *account.options(), destination(account), "id"]
    assert watcher(command, code=0) == []
