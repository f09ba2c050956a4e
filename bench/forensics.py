"""Forensics: converting traces, and asking ten of them, a million records together.

The workload is `bench.trace`'s. Converted are all tables, and flows alone; the question groups all
events by second and program. Needs the extra `query`. Goal: an answer within 5 s and 512 MiB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentwatch.forensics.export import to_parquet
from agentwatch.replay import settle
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from bench.figures import show
from bench.trace import RECORDS_A_ROUND, SLOTS_A_ROUND, recorded

TRACES = 10
ROUNDS = 157
RECORDS = ROUNDS * (SLOTS_A_ROUND + RECORDS_A_ROUND)
QUESTION = (
    "SELECT date_trunc('second', time) AS at, exe, count(*) AS n FROM events GROUP BY ALL ORDER BY n DESC"
)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _asked(folder: Path) -> tuple[float, float]:
    """Seconds and MiB that a question takes, the start of the program included."""
    code = (
        "import resource, sys; from agentwatch.cli.main import cli\n"
        "try: cli.main(['query', *sys.argv[1:], '--format', 'json'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
    )
    began = time.monotonic()
    command = [sys.executable, "-c", code, QUESTION, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout
    return time.monotonic() - began, float(done.stderr.splitlines()[-1])


def main() -> None:
    settle()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rules = load_rules([RULES])
        traces = [recorded(folder / f"{seed}.awt", ROUNDS, rules, seed) for seed in range(TRACES)]
        cpu = _cpu()
        for trace in traces:
            to_parquet((trace,), folder / "out")
        show("records a second converted, all tables, one core", TRACES * RECORDS / (_cpu() - cpu), "/s")
        cpu = _cpu()
        to_parquet((traces[0],), folder / "flows", ["flows"])
        show("records a second converted, flows alone, one core", RECORDS / (_cpu() - cpu), "/s")
        asked = [_asked(folder / "out") for _ in range(3)]
        show("question over ten traces of a million records", min(wall for wall, _ in asked), "s", 5)
        show("its memory", max(memory for _, memory in asked), "MiB", 512)
