"""Forensics: asking ten traces of a million records, which are converted by the first question.

The workload is `bench.trace`'s, with ten seeds. Each kind of question is asked twice; the first
converts what it looks at, on all CPUs. Needs the extra `query`. Goal: asked again, within 5 s and
512 MiB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from bench.figures import show
from bench.trace import RECORDS_A_ROUND, SLOTS_A_ROUND, recorded

TRACES = 10
ROUNDS = 1563
RECORDS = TRACES * ROUNDS * (SLOTS_A_ROUND + RECORDS_A_ROUND)
QUESTIONS = {
    "processes": "SELECT exe, count(*) AS n FROM processes GROUP BY ALL ORDER BY n DESC",
    "names": "SELECT name, count(*) AS n FROM dns GROUP BY ALL ORDER BY n DESC",
    "flows by address": "SELECT destination_ip, sum(bytes_out) AS sent, count(*) FROM flows GROUP BY ALL",
    "flows by protocol": "SELECT protocol, hostname, count(*) FROM flows GROUP BY ALL",
    "events": "SELECT date_trunc('second', time) AS at, exe, count(*) FROM events GROUP BY ALL",
    "alerts": "SELECT title, count(*) AS n FROM alerts GROUP BY ALL ORDER BY n DESC",
}
_ASK = """
import resource, sys
from pathlib import Path
from agentwatch.cli.main import cli
from agentwatch.forensics import kept
kept.default_folder = lambda: Path(sys.argv[1])
try: cli.main(["query", *sys.argv[2:], "--format", "json"], standalone_mode=False)
except SystemExit: pass
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
cpu = sum(one.ru_utime + one.ru_stime for one in used)
print(cpu, max(one.ru_maxrss for one in used) / 1024, file=sys.stderr)
"""


def _ask(name: str, keep: Path, question: str, sources: list[Path], goals: bool = True) -> None:
    """Time, CPU and memory that a question takes, the start of the program included."""
    began = time.monotonic()
    command = [sys.executable, "-c", _ASK, keep, question, *sources]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    cpu, memory = map(float, done.stderr.splitlines()[-1].split())
    show(name, time.monotonic() - began, "s", 5 if goals else None)
    show("  its CPU", cpu, "s")
    show("  memory of its largest process", memory, "MiB", 512)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        keep = folder / "keep"
        rules = load_rules([RULES])
        traces = [recorded(folder / f"{seed}.awt", ROUNDS, rules, seed) for seed in range(TRACES)]
        show("ten traces", RECORDS, "records")
        for name, question in QUESTIONS.items():
            _ask(f"{name}, first question", keep, question, traces, goals=False)
            _ask(f"{name}, asked again", keep, question, traces)
        size = sum(file.stat().st_size for file in keep.rglob("*.parquet"))
        show("what is kept, a million records", size / (RECORDS / 1e6) / (1 << 20), "MiB")


if __name__ == "__main__":
    main()
