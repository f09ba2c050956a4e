"""Starting: from the start of the interpreter to the probes attached and to the agent's first
instruction, and memory.

Goal: warm, probes attached at most 100 ms beyond the interpreter's own start; at most 60 MiB resident.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from bench.figures import show
from tests.lab import eventually

RUNS = 15
_TELL = ["date", "+%s%N"]


def _elapsed(command: list[str]) -> float:
    """Milliseconds until `date`, somewhere below the command, tells the time."""
    begin = time.time_ns()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return (int(done.stdout) - begin) / 1e6


# What `run` does until its probes are attached, in its order.
_ATTACH = textwrap.dedent(
    """
    import time
    import agentwatch.cli.main, agentwatch.cli.run
    from agentwatch.cli.run import Child, Guard, Watch, create
    from agentwatch.watch import Options
    with create("bench-start") as cgroup, Guard(cgroup), \\
         Child(["true"], capture=False, stdout_to_stderr=False), Watch() as watch:
        watch.add(Options("bench", "monitor"), cgroup)
        print(time.time_ns())
    """
)


def _resident(arguments: list[str]) -> float:
    """Peak resident MiB of a run that has settled."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentwatch", "run", "--alone", *arguments], stderr=subprocess.DEVNULL
    )
    status = Path(f"/proc/{process.pid}/status")
    eventually(lambda: b"sleep" in _children(process.pid))
    time.sleep(1)  # a second of watching, so that what is loaded later counts
    kib = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    process.terminate()
    process.wait()
    return kib / 1024


def _children(pid: int) -> bytes:
    done = subprocess.run(["ps", "-o", "comm=", "--ppid", str(pid)], capture_output=True, check=False)
    return done.stdout


def main() -> None:
    # Modules are compiled once, as where they are installed, whatever the surroundings say.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        _measure()


def _measure() -> None:
    bare = [sys.executable, "-c", "import os; os.execvp('date', ['date', '+%s%N'])"]
    run = [sys.executable, "-m", "agentwatch", "run", "--alone", "--", *_TELL]
    _elapsed(run)  # fills the caches
    _elapsed([sys.executable, "-c", _ATTACH])
    attach = [sys.executable, "-c", _ATTACH]
    rounds = [(_elapsed(bare), _elapsed(attach), _elapsed(run)) for _ in range(RUNS)]
    show("interpreter start (median)", statistics.median(b for b, _, _ in rounds), "ms")
    show(
        "warm, to probes attached, beyond it (median)",
        statistics.median(a - b for b, a, _ in rounds),
        "ms",
        100,
    )
    show(
        "warm, to the agent's first instruction, beyond it",
        statistics.median(r - b for b, _, r in rounds),
        "ms",
    )
    show("resident memory of a run", _resident(["--", "sleep", "60"]), "MiB", 60)
