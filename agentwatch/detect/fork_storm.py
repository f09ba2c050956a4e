"""Fork bombs: processes that make processes that make processes, none of which runs a program.

Forks are looked at by the batch, so that one costs next to nothing in a storm as in peace. Two shapes
are told:

- deep: two batches at once in which generation follows generation without a program run between. A
  bomb's generations grow with the logarithm of its size even where `pids.max` holds it down; shells
  within shells, test runners, loaders of data and torchrun's workers make three or four.
- wide: a thousand children made at once that are still alive. A build's children end; the workers of
  eight GPUs' loaders of data are some hundreds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.per_agent import PerAgent
from agentwatch.enrich.facts import behaviour_sighting
from agentwatch.enrich.processes import Process, ProcessTable
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import Type

BATCH: Final = 64
"""Forks looked at together."""
WITHIN_NS: Final = 10_000_000_000
"""How long the forks of a batch may take."""
SAMPLE: Final = 9
"""Each so manieth child of a batch has its generation counted."""
DEEPEST: Final = 5
DEEP: Final = 3
"""Generations of a deep batch: of its deepest child, and on average."""
DEEP_ALIVE: Final = 2.5
MOSTLY: Final = BATCH * 9 // 10
"""The same average where so many of its children live: their parents go on to make more."""
DEEP_BATCHES: Final = 2
FEW_ALIVE: Final = BATCH // 8
"""Children of a batch fewer of which live when it is looked at make no storm."""
WIDE: Final = 1024
"""Living children of a wide storm."""
_DEPTH_LIMIT: Final = 32


class Forks:
    """The forks of one agent. `batch` takes its children; `look` says what a full one newly shows."""

    def __init__(self, processes: ProcessTable) -> None:
        self.batch: list[Process] = []
        self._processes = processes
        self._alive: list[Process] = []  # children of the batches before that had not ended
        self._deep = 0  # deep batches in a row
        self._began = 0  # when the first of these batches did
        self._count = 0  # forks since then
        self._next = 0  # forks at which it is told again

    def look(self) -> dict[str, Value] | None:
        """What the batch makes of those before; it is empty then."""
        batch, self.batch = self.batch, []
        first, last = batch[0].start, batch[-1].start
        alive = [child for child in batch if not child.ended]
        if last - first > WITHIN_NS or len(alive) < FEW_ALIVE:
            self._reset()
            return None
        if not self._count:
            self._began = first
        self._count += BATCH
        depths = [_depth(self._processes, child) for child in batch[::SAMPLE]]
        is_deep = _is_deep(depths, len(alive))
        self._deep = self._deep + 1 if is_deep else 0
        self._alive += alive
        if len(self._alive) >= WIDE:
            self._alive = [child for child in self._alive if not child.ended]
        is_wide = len(self._alive) >= WIDE
        if not is_wide and self._deep < DEEP_BATCHES:
            if not is_deep and not self._alive:
                self._reset()
            return None
        living = len(self._alive)
        del self._alive[: -2 * WIDE]
        if self._count < self._next:
            return None
        self._next = 2 * self._count
        span = max(0, last - self._began) / 1e9
        return {
            "Kind": "fork_storm",
            "Forks": self._count,
            "Span": round(span, 1),
            "Depth": max(depths),
            "Living": living,
        }

    def _reset(self) -> None:
        self._alive = []
        self._deep = self._count = self._next = 0


def _is_deep(depths: list[int], alive: int) -> bool:
    total, count = sum(depths), len(depths)
    if max(depths) >= DEEPEST and total >= DEEP * count:
        return True
    return alive >= MOSTLY and total >= DEEP_ALIVE * count


def _depth(processes: ProcessTable, process: Process) -> int:
    """How many generations lie between a process and the one that ran its program."""
    depth = 0
    above: Process | None = process
    while above is not None and _is_same_image(above, process) and depth < _DEPTH_LIMIT:
        depth += 1
        above = processes.parent(above)
    return depth - 1


def _is_same_image(one: Process, other: Process) -> bool:
    """Whether two processes run what one exec began. Of those found running, no exec is known."""
    return one.exec_seq == other.exec_seq and one.exe == other.exe


class ForkStorms:
    """Events of category `process_behaviour` with Kind fork_storm."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._agents = PerAgent(lambda: Forks(state.processes))
        self.handlers: dict[int, Handler] = {int(Type.FORK): self._fork}

    def _fork(self, change: Change) -> Sequence[Sighting]:
        """What this fork makes of those before it."""
        forks = self._agents.of(change.agent)
        batch = forks.batch
        batch.append(change.process)
        if len(batch) < BATCH:
            return NOTHING
        found = forks.look()
        if found is None:
            return NOTHING
        return (behaviour_sighting(self._state, "process_behaviour", change, found),)
