"""GPUs under watch, from `agentwatch run` to the alerts: real processes and flows, a made-up GPU.

The burner computes nothing: the stand-in of NVIDIA's library says that its process does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agentwatch.resources import RULES
from tests.lab import eventually
from tests.lab.gpu import GPU_IS_LOST, Gpus, stand_in

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

GPU = "GPU-11111111"
PYTHON = "/usr/bin/python3"
# Says who it is, speaks stratum if there is a pool, and is there until the file STOP is.
BURNER = """
import os, socket, sys, time
stop, pool = sys.argv[1], int(sys.argv[2])
print(os.getpid(), flush=True)  # first: who speaks stratum is frozen at once
if pool:
    connection = socket.create_connection(("127.0.0.1", pool))
    connection.sendall(b'{"id":1,"method":"mining.subscribe","params":["burner/1"]}\\n')
while not os.path.exists(stop):
    time.sleep(0.05)
"""
LOADED = """
title: Loaded
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a13
logsource: {product: agentwatch, category: gpu}
detection:
  loaded: {Kind: use, SustainedSeconds|gte: 4}
  condition: loaded
level: informational
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """One idle GPU."""
    made = stand_in(tmp_path / "state", monkeypatch.setenv)
    made.gpu(GPU)
    made.tell()
    return made


@pytest.fixture
def pool() -> Iterator[int]:
    """The port of somebody who takes a miner's connection and keeps it."""
    kept = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                kept.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in kept:
        connection.close()


class Run:
    """`agentwatch run` over the burner, and what it leaves."""

    def __init__(
        self, folder: Path, rules: list[Path], *command: object, options: tuple[object, ...] = ()
    ) -> None:
        self.stop, self.trace, self._alerts = folder / "stop", folder / "trace", folder / "alerts"
        loaded = folder / "loaded.yml"
        loaded.write_text(LOADED)
        given = [word for path in (*rules, loaded) for word in ("--rules", path)]
        files = ["--alerts", self._alerts, "--record", self.trace]
        fixed = ["--mode", "enforce", "--on-pause", "kill", *files, *given, *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentwatch", "run", *map(str, (*fixed, "--", *command))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.burner = int(self.process.stdout.readline())

    def alerts(self, title: str = "") -> list[dict[str, Any]]:
        """The alerts so far, those of a rule or all."""
        lines = self._alerts.read_text().splitlines() if self._alerts.exists() else []
        alerts = [json.loads(line) for line in lines]
        return [alert for alert in alerts if title in ("", alert["rule"]["title"])]

    def until(self, title: str) -> dict[str, Any]:
        """Wait for an alert."""
        return eventually(lambda: self.alerts(title), 30)[0]

    def end(self) -> str:
        """Let it end; what was said on standard error."""
        self.stop.touch()
        _, errors = self.process.communicate(timeout=60)
        return errors

    def replayed(self) -> bytes:
        """The alerts of a replay."""
        again = self.trace.with_suffix(".again")
        replay = [sys.executable, "-m", "agentwatch", "replay", str(self.trace), "--alerts", str(again)]
        subprocess.run(replay, capture_output=True, check=True)
        return again.read_bytes()

    def recorded(self) -> bytes:
        """The alerts as they were written live."""
        return self._alerts.read_bytes()


@pytest.fixture
def burner(tmp_path: Path) -> Path:
    script = tmp_path / "burner.py"
    script.write_text(BURNER)
    return script


def shell(burner: Path, stop: Path, pool: int) -> list[object]:
    """An agent whose tool's shell starts the burner."""
    tool = f"import subprocess; subprocess.run({f'{PYTHON} {burner} {stop} {pool}'!r}, shell=True)"
    return [PYTHON, "-c", tool]


MINING_FLOW = RULES / "gpu" / "gpu_mining_flow.yml"
BUSY_TITLE = "GPU Busy in a Process That Has a Mining Flow"


def test_gpu_and_mining_flow_below_a_shell_pause_and_both_signs_are_shown(
    gpus: Gpus, pool: int, burner: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path, [MINING_FLOW], *shell(burner, tmp_path / "stop", pool))
    gpus.process(GPU, run.burner)
    gpus.tell()
    alert = run.until(BUSY_TITLE)
    run.end()
    assert (alert["acted"], alert["process"]["pid"]) == ("pause", run.burner)
    assert alert["flow"]["protocol"] == "stratum"
    assert alert["flow"]["remote"] == f"127.0.0.1:{pool}"
    shown = alert["event"]
    assert (shown["SmPercent"], shown["MiningFlow"], shown["Registered"]) == (97, "stratum", "false")
    assert run.replayed() == run.recorded()


def test_shipped_rules_join_both_signs_of_a_frozen_agent(
    gpus: Gpus, pool: int, burner: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path, [RULES], *shell(burner, tmp_path / "stop", pool), options=("--on-pause", "wait"))
    gpus.process(GPU, run.burner)
    gpus.tell()
    assert run.until("Agent Speaks Stratum to a Mining Pool")["acted"] == "pause"
    assert run.until(BUSY_TITLE)["flow"]["protocol"] == "stratum"
    run.process.terminate()
    run.end()


@pytest.mark.parametrize("named", [False, True])
def test_registered_training_is_left_alone(
    gpus: Gpus, pool: int, burner: Path, tmp_path: Path, named: bool
) -> None:
    direct: list[object] = [PYTHON, burner, tmp_path / "stop", pool]
    command = shell(burner, tmp_path / "stop", pool) if named else direct
    run = Run(tmp_path, [MINING_FLOW], *command, options=("--training", burner) if named else ())
    gpus.process(GPU, run.burner)
    gpus.tell()
    assert run.until("Loaded")["event"]["Registered"] == "true"
    run.end()
    assert run.process.returncode == 0
    assert not run.alerts(BUSY_TITLE)
    assert run.replayed() == run.recorded()


def test_mig_instance_with_a_mining_flow_pauses_though_its_share_is_unknown(
    gpus: Gpus, pool: int, burner: Path, tmp_path: Path
) -> None:
    gpus.gpu(GPU, -1)
    gpus.instance("MIG-1", GPU, 7)
    gpus.tell()
    run = Run(tmp_path, [MINING_FLOW], *shell(burner, tmp_path / "stop", pool))
    gpus.process("MIG-1", run.burner, -1)
    gpus.tell()
    alert = run.until(BUSY_TITLE)
    run.end()
    assert (alert["event"]["Device"], alert["event"]["Mig"], alert["acted"]) == ("0/0", "true", "pause")


def test_driver_that_is_loaded_and_gpu_that_is_lost_meanwhile(
    gpus: Gpus, burner: Path, tmp_path: Path
) -> None:
    gpus.unload()
    lost = RULES / "gpu" / "gpu_lost.yml"
    run = Run(tmp_path, [lost], PYTHON, burner, tmp_path / "stop", 0)
    gpus.process(GPU, run.burner)
    gpus.tell()
    run.until("Loaded")
    gpus.orders = [f"fail * {GPU_IS_LOST} {GPU}"]
    gpus.tell()
    alert = run.until("GPU Was Lost Under an Agent")
    assert (alert["event"]["Reason"], alert["acted"]) == ("GPU is lost", "none")
    run.end()
    assert run.replayed() == run.recorded()


def test_gap_is_said_while_it_lasts(gpus: Gpus, burner: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, [], PYTHON, burner, tmp_path / "stop", 0)
    gpus.process(GPU, run.burner)
    gpus.tell()
    run.until("Loaded")
    gpus.unload()
    assert run.process.stderr is not None
    with watchdog(run.process):
        missing = "who uses the GPUs is not seen"
        assert any(missing in line for line in run.process.stderr)
        gpus.tell()
        said = (line for line in run.process.stderr if "partial" in line or "nothing is missing" in line)
        assert missing not in next(said)
    run.end()
    assert run.process.returncode == 0


def test_opened_device_node_is_told_of_the_process_that_opened_it(tmp_path: Path) -> None:
    """Watched names hold below any root: a container's /dev, here a folder of the test's."""
    node, alerts = tmp_path / "dev" / "nvidiactl", tmp_path / "alerts"
    node.parent.mkdir()
    node.touch()
    rule = RULES / "gpu" / "gpu_device_opened.yml"
    tool = f"import os; os.system('cat {node}; true')"
    command = ["run", "--rules", rule, "--alerts", alerts, "--", PYTHON, "-c", tool]
    subprocess.run([sys.executable, "-m", "agentwatch", *map(str, command)], check=True, timeout=60)
    (alert,) = map(json.loads, alerts.read_text().splitlines())
    assert alert["process"]["argv"] == ["cat", str(node)]
    assert (alert["event"]["Kind"], alert["event"]["Device"]) == ("device_open", str(node))


@contextmanager
def watchdog(process: subprocess.Popen[str], seconds: float = 30) -> Iterator[None]:
    """End a process whose output is waited for in vain."""
    timer = threading.Timer(seconds, process.terminate)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def test_host_without_gpus_pays_nothing(
    burner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    if any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/nvidia0")):
        pytest.skip("this host has GPUs")
    run = Run(tmp_path, [], PYTHON, burner, tmp_path / "stop", 0)
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    samplers = [pid for pid in children if "nvml_child" in Path(f"/proc/{pid}/cmdline").read_text()]
    run.end()
    assert not samplers
    assert not run.alerts()
