"""Replay: records a second on one core, two traces on two cores, memory, and a million records live.

The workload is `bench.trace`'s, under the shipped rules. The million is recorded from a real agent
while both CPUs are loaded, and replayed as nobody; its alerts must come out byte for byte. Goals:
400,000 records a second a core; two traces on two cores within 10 % of linear.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from agentwatch.collector import settle
from agentwatch.replay import Order, line_of, replay_all
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from bench.figures import show
from bench.latency import AGENT, POOL
from bench.trace import RECORDS_A_ROUND, SLOTS_A_ROUND, recorded
from tests.lab import compiled
from tests.lab.watched import watched

ROUNDS = 500
RECORDS = ROUNDS * (SLOTS_A_ROUND + RECORDS_A_ROUND)
MILLION = 1_000_000
TURNS = 5
RATE = 100_000  # events a second
CONNECTIONS = 200  # of which each leads to an alert


def _replay(traces: Sequence[Path], jobs: int) -> tuple[float, float]:
    """Wall and CPU seconds, those of workers included."""
    wall, cpu = time.monotonic(), _cpu()
    work = [(trace,) for trace in traces]
    for _ in replay_all(work, Order(), len, jobs=jobs, progress=lambda index, done: None):
        pass
    return time.monotonic() - wall, _cpu() - cpu


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak(trace: Path) -> float:
    """MiB that a replay takes at most."""
    code = (
        "import resource, sys; from agentwatch.cli.main import cli\n"
        "try: cli.main(['replay', sys.argv[1], '--alerts', '/dev/null'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(trace)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _synthetic(folder: Path) -> None:
    rules = load_rules([RULES])
    one, two = (recorded(folder / f"{seed}.awt", ROUNDS, rules, seed) for seed in (1, 2))
    cpu = min(_replay([one], 1)[1] for _ in range(3))
    show("records a second on one core", RECORDS / cpu, "/s", 400_000, at_least=True)
    _side_by_side(one, two)
    show("peak memory", _peak(one), "MiB")
    show("peak memory, four times as long", _peak(recorded(folder / "4.awt", 4 * ROUNDS, rules)), "MiB")


def _side_by_side(one: Path, two: Path) -> None:
    """The same two traces in turns, so that what they cost differs by nothing but how they are run.

    The best of each way counts: the best quotient of two neighbours would be that in which the other way
    was disturbed most. What else runs takes wall time from both ways, but CPU time from neither: where it
    took more than a little, only the CPU time says something.
    """
    turns = [(_replay([one, two], 1), _replay([one, two], 2)) for _ in range(TURNS)]
    after, beside = ([turn[way] for turn in turns] for way in (0, 1))
    (wall_after, wall_beside), (cpu_after, cpu_beside) = (
        (min(run[clock] for run in after), min(run[clock] for run in beside)) for clock in (0, 1)
    )
    show("two traces side by side / one after the other, wall", wall_beside / wall_after, "", 0.55)
    show("the same, CPU", cpu_beside / cpu_after, "", 1.1)
    got = max(cpu / wall for wall, cpu in beside)
    show("CPUs that the two had at best", got, "")


def _load() -> list[subprocess.Popen[bytes]]:
    """A process for each CPU that does nothing but take it."""
    code = "while True: pass"
    return [
        subprocess.Popen(["nice", "-n", "5", sys.executable, "-c", code]) for _ in os.sched_getaffinity(0)
    ]


def _live(folder: Path) -> None:
    trace = folder / "live.awt"
    flood = f"{compiled('flood')} udp-connect {RATE} {1.4 * MILLION / RATE}"
    pool = subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE)
    assert pool.stdout is not None
    port = pool.stdout.readline().strip().decode()
    client = [sys.executable, "-c", AGENT, port, str(CONNECTIONS)]
    command = ["sh", "-c", f'{flood} >/dev/null & "$@"; wait', "sh", *client]
    load = _load()
    with watched(command, rules=load_rules([RULES]), record=trace) as agent:
        while agent.cgroup.populated():
            agent.step()
            agent.rows.clear()
        agent.session.finish()
        records = agent.session.pipeline.counters.records
        lost = sum(agent.session.state.agent(1).lost.values())
        lines = b"".join(map(line_of, agent.alerts))
    for process in (pool, *load):
        process.kill()
        process.wait()
    show("recorded live, both CPUs loaded", records, "records", MILLION, at_least=True)
    show("lost of them", lost, "")
    show("alerts", len(agent.alerts), "", CONNECTIONS, at_least=True)
    same = _replayed_as_nobody(trace) == lines
    show("replay as nobody differs", 0 if same else 1, "", 0)


def _replayed_as_nobody(trace: Path) -> bytes:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [sys.executable, "-m", "agentwatch", "replay", "-"]
    with trace.open("rb") as file:
        return subprocess.run(command, stdin=file, stdout=subprocess.PIPE, check=True).stdout


def main() -> None:
    settle()
    with tempfile.TemporaryDirectory() as folder:
        _synthetic(Path(folder))
        if os.geteuid() == 0:
            _live(Path(folder))
        else:
            print("the million records recorded live need root")
    load, *_ = os.getloadavg()
    print(f"load average {load:.1f}")
