"""GPUs under a real daemon: what it does about them, what `ps`, `status` and `top` show of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually
from tests.lab.gpu import GIB, GPU_IS_LOST, Gpus, stand_in
from tests.scenarios.test_gpus import BURNER, BUSY_TITLE, GPU, MINING_FLOW, PYTHON, pool
from tests.tui.top.terminal import Terminal

__all__ = ["pool"]
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
# Waits for a word, then has a shell run its command, as a harness does for an agent's tool.
HARNESS = "import subprocess, sys; sys.stdin.readline(); subprocess.run(sys.argv[1], shell=True)"
# Waits for a word, then is the burner itself.
TRAINING = (
    "import sys; sys.stdin.readline(); sys.argv.pop(0); exec(compile(open(sys.argv[0]).read(), '', 'exec'))"
)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """One idle GPU."""
    made = stand_in(tmp_path / "state", monkeypatch.setenv)
    made.gpu(GPU)
    made.tell()
    return made


@pytest.fixture
def burner(tmp_path: Path) -> Path:
    script = tmp_path / "burner.py"
    script.write_text(BURNER)
    return script


@pytest.fixture
def daemon(gpus: Gpus, tmp_path: Path) -> Iterator[Service]:
    """It has only the rule that joins both signs: others would freeze a miner for less."""
    with service(tmp_path, "--rules", str(MINING_FLOW)) as made:
        yield made


@contextmanager
def agent(
    daemon: Service, name: str, burner: Path, port: int = 0, *, below_shell: bool = True
) -> Iterator[tuple[Cgroup, int]]:
    """One that burns a GPU once it is watched; its cgroup and the burner's process id."""
    words = [str(burner), str(burner.parent / f"stop-{name}"), str(port)]
    if below_shell:
        command = [PYTHON, "-c", HARNESS, " ".join((PYTHON, *words))]
    else:
        command = [PYTHON, "-c", TRAINING, *words]
    pipe = subprocess.PIPE
    with Cgroup(name) as cgroup, cgroup.popen(command, stdin=pipe, stdout=pipe) as process:
        try:
            eventually(cgroup.pids)
            daemon.attach(cgroup, name=name)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            yield cgroup, int(process.stdout.readline())
        finally:
            (cgroup.path / "cgroup.kill").write_text("1")


def used(daemon: Service, seconds: int) -> dict[str, Any]:
    """What rules see of a load that has lasted so long; waits for it."""

    def loaded() -> dict[str, Any]:
        found = daemon.ask("recent", category="gpu")["events"]
        lasting = [one for one in found if int(one["fields"].get("SustainedSeconds") or 0) >= seconds]
        return lasting[-1]["fields"] if lasting else {}

    return eventually(loaded, 40)


def top(daemon: Service) -> list[str]:
    return [sys.executable, "-m", "agentwatch", "top", "--socket", str(daemon.socket)]


def told(daemon: Service, verb: str) -> list[str]:
    """The lines of `agentwatch VERB`."""
    command = [sys.executable, "-m", "agentwatch", verb, "--socket", str(daemon.socket)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()


def test_both_signs_below_a_shell_pause_the_agent_and_the_screen_shows_both(
    daemon: Service, gpus: Gpus, pool: int, burner: Path
) -> None:
    with agent(daemon, "job-7", burner, pool) as (cgroup, pid), Terminal(top(daemon), 80, 24) as terminal:
        terminal.shows("job-7", "0 alerts")
        gpus.process(GPU, pid)
        gpus.tell()
        terminal.shows("1 FROZEN", BUSY_TITLE, seconds=40)
        assert cgroup.frozen()
        terminal.send("e")
        terminal.shows("critical " + BUSY_TITLE, "MiningFlow is 'stratum'", "SmPercent is at least", "97")
    (alert,) = daemon.ask("alerts")["alerts"]
    assert (alert["acted"], alert["process"]["pid"]) == ("pause", pid)
    assert alert["flow"]["remote"] == f"127.0.0.1:{pool}"
    assert (alert["event"]["SmPercent"], alert["event"]["MiningFlow"]) == (97, "stratum")


def test_the_same_load_and_flow_in_the_registered_training_are_left_alone(
    daemon: Service, gpus: Gpus, pool: int, burner: Path
) -> None:
    with agent(daemon, "trainer", burner, pool, below_shell=False) as (cgroup, pid):
        gpus.process(GPU, pid)
        gpus.tell()
        seen = used(daemon, 4)
        assert (seen["ProcessId"], seen["Registered"], seen["MiningFlow"]) == (pid, "true", "stratum")
        assert not cgroup.frozen()
        assert daemon.ask("alerts")["alerts"] == []


def test_ps_status_and_the_screen_show_use_by_agent_and_by_process_and_of_instances(
    daemon: Service, gpus: Gpus, burner: Path
) -> None:
    gpus.gpu("GPU-2", -1)
    gpus.instance("MIG-1", "GPU-2", 7)
    gpus.tell()
    with agent(daemon, "job-7", burner) as (_, mig), agent(daemon, "trainer", burner) as (_, sm):
        gpus.process("MIG-1", mig, -1, memory=3 * GIB)
        gpus.process(GPU, sm, 90)
        gpus.tell()
        eventually(lambda: daemon.agent("job-7")["gpu"] and daemon.agent("trainer")["gpu"], 40)
        shown = told(daemon, "ps")
        assert "GPU" in shown[0].split()
        (of_mig,) = [line for line in shown if f" {mig} " in line]
        (of_sm,) = [line for line in shown if f" {sm} " in line]
        assert "GPU 1/0: 3.2 GB" in of_mig
        assert "GPU 0: 90 %, 2.1 GB" in of_sm
        assert "job-7 in all: GPU 1/0: 3.2 GB" in shown
        assert "trainer in all: GPU 0: 90 %, 2.1 GB" in shown
        assert "GPU 0: 90 %, 2.1 GB" in next(line for line in told(daemon, "status") if "trainer" in line)
        with Terminal(top(daemon), 80, 24) as terminal:
            seen = terminal.shows("job-7", "3.2 GB", "90 %").splitlines()
            assert "3.2 GB" in next(line for line in seen if line.startswith("job-7"))
            assert "90 %" in next(line for line in seen if line.startswith("trainer"))
            terminal.send("2")
            seen = terminal.shows("COMMAND", str(mig)).splitlines()
            assert "3.2 GB" in next(line for line in seen if f" {mig} " in line)
            assert "90 %" in next(line for line in seen if f" {sm} " in line)
            terminal.send("6")
            seen = terminal.shows("1/0", "MIG 1g", f"[{mig}]", f"[{sm}]").splitlines()
            by_agent = next(line for line in seen if " trainer " in line)
            assert "1 process" in by_agent and "90 %" in by_agent
            assert "3.2 GB" in next(line for line in seen if f"[{mig}]" in line)


def test_a_driver_that_comes_and_goes_and_a_lost_gpu_are_said(
    gpus: Gpus, burner: Path, tmp_path: Path
) -> None:
    gpus.unload()
    with (
        service(tmp_path, "--rules", str(MINING_FLOW)) as daemon,
        agent(daemon, "job-7", burner) as (_, pid),
        Terminal(top(daemon), 80, 24) as terminal,
    ):
        terminal.shows("job-7")
        terminal.send("6")
        terminal.shows("No GPU is seen", seconds=40)
        gpus.process(GPU, pid)
        gpus.tell()
        terminal.shows("Stand-in H100", f"[{pid}]", seconds=60)
        gpus.orders = [f"fail * {GPU_IS_LOST} {GPU}"]
        gpus.tell()
        terminal.shows("GONE: GPU is lost", seconds=60)
        gpus.orders = []
        gpus.tell()
        terminal.shows(f"[{pid}]", seconds=60)
        assert "GONE" not in terminal.screen()
        gpus.unload()
        terminal.shows("GONE:", "NOT SEEN", seconds=60)
        terminal.send("8")
        terminal.shows("who uses the GPUs is not seen")


def test_without_library_and_driver_nothing_is_started_and_the_screen_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with service(tmp_path, "--rules", str(MINING_FLOW)) as daemon:
        with Terminal(top(daemon), 80, 24) as terminal:
            terminal.shows("0 agents")
            terminal.send("6")
            terminal.shows("No GPU is seen: there is none")
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        commands = [Path(f"/proc/{child}/cmdline").read_text() for child in children]
        assert not any("nvml" in command for command in commands)
