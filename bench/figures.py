"""How figures are printed: one line each, with the goal beside the value where there is one."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(name: str, value: float, unit: str, goal: float | None = None, *, at_least: bool = False) -> None:
    """Print a figure."""
    line = f"{name:58} {value:12,.3f} {unit}"
    if goal is not None:
        met = value >= goal if at_least else value <= goal
        line += f"   (goal: {'at least' if at_least else 'at most'} {goal:g}{'' if met else '; NOT MET'})"
    print(line, flush=True)
