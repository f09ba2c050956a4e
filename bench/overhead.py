"""Overhead: what a process that is no agent pays while another one is watched.

Each kind of operation is timed bare and beside a watched agent, in turn; the median of the
pairs' ratios is shown. Goal: within the noise of the same measurement against itself.
"""

from __future__ import annotations

import statistics
import subprocess

from bench.figures import show
from tests.lab import compiled
from tests.lab.watched import watched

KINDS = ("exec", "tcp-connect", "udp-connect", "pipe", "open")
PAIRS = 9
SECONDS = 0.4


def _cost(kind: str) -> float:
    """Seconds an operation."""
    done = subprocess.run(
        [str(compiled("flood")), kind, "0", str(SECONDS)], capture_output=True, text=True, check=True
    )
    count, taken = done.stdout.split()
    return float(taken) / int(count)


def main() -> None:
    for kind in KINDS:
        same, watching = [], []
        for _ in range(PAIRS):
            bare = _cost(kind)
            same.append(_cost(kind) / bare)
            with watched(["sleep", "60"]):
                watching.append(_cost(kind) / bare)
        show(f"{kind}: beside a watched agent / bare", statistics.median(watching), "")
        low, high = min(same), max(same)
        print(f"{'':4}bare against itself: {low:.3f} to {high:.3f}")
