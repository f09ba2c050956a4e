"""What it costs to sample GPUs: under 1 % of a CPU, for eight GPUs with four processes each.

The driver is the stand-in of the tests, which reads a file at each call: what a real one needs is
not in these figures, what Python and pynvml need is.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from agentwatch.detect.chain import Chain
from agentwatch.detect.request import NoRequests
from agentwatch.enrich.state import State
from agentwatch.schema import decode
from agentwatch.schema.events import Type
from agentwatch.sources.nvml import Nvml
from bench.figures import show
from tests.lab.gpu import stand_in

GPUS, PROCESSES = 8, 4
SECONDS = 20.0
SWEEP = 0.5  # seconds, as the live source does


class _Kept:
    """Takes the records in the place of the live source."""

    def __init__(self) -> None:
        self.rows: list[tuple[object, ...]] = []

    def note(
        self, type: Type, agent: int, *fields: object, tgid: int = 0, start: int = 0, time: int = 0
    ) -> None:
        self.rows.append((int(type), time, agent, tgid, start, *fields))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="agentwatch-bench-") as folder:
        users = [subprocess.Popen(["sleep", "600"]) for _ in range(PROCESSES)]
        try:
            _measure(Path(folder), [user.pid for user in users])
        finally:
            for user in users:
                user.kill()
                user.wait()


def _measure(folder: Path, pids: list[int]) -> None:
    gpus = stand_in(folder / "state", os.environ.__setitem__)
    for number in range(GPUS):
        gpus.gpu(f"GPU-{number}", 90, transfer=5000)
        for pid in pids:
            gpus.process(f"GPU-{number}", pid, 20)
    gpus.tell()
    kept = _Kept()
    source = Nvml(kept)  # type: ignore[arg-type]
    _sweep(source, 3)
    assert source._child is not None
    before, kept.rows = _cpu(source._child.pid), []
    spent = _sweep(source, SECONDS)
    sampler = _cpu(source._child.pid) - before
    resident = _resident(source._child.pid)
    source.close()
    show("sampler, 8 GPUs with 4 processes each", 100 * sampler / SECONDS, "% of a CPU", 1)
    show("  its memory", resident, "MB")
    show("the watcher's part: receiving", 100 * spent / SECONDS, "% of a CPU", 1)
    show("  folding, with all processes the agent's", 100 * _fold(kept.rows, pids) / SECONDS, "% of a CPU", 1)


def _sweep(source: Nvml, seconds: float) -> float:
    """Sweep for so long; CPU seconds that it took."""
    spent, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.process_time()
        source.sweep()
        spent += time.process_time() - began
        time.sleep(SWEEP)
    return spent


def _fold(rows: list[tuple[object, ...]], pids: list[int]) -> float:
    """CPU seconds to decode, fold and tell the records."""
    state = State()
    chain = Chain(state, ("gpu",), NoRequests())
    for pid in pids:
        start = next(int(str(row[4])) for row in rows if row[3] == pid)
        state.processes.get(pid, start, 1)
    for number in range(GPUS):
        state.gpus.appear(f"GPU-{number}", str(number), "", "", -1, 0, "")
    began = time.process_time()
    for row in decode.notes(decode.pack_notes(rows)):
        change = state.apply(1, row)
        if change is not None:
            chain.of(change)
    return time.process_time() - began


def _cpu(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    """Resident memory of a process, MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
