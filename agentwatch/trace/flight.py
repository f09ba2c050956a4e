"""The flight recorder: what each agent did last, kept in memory in case an alert asks for it.

What falls off a tape is folded first, so that it is known what was so where the tape begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agentwatch.schema.events import HOST
from agentwatch.sources.base import BatchKind, Round
from agentwatch.trace.format import Layout, size_of
from agentwatch.trace.past import Past
from agentwatch.trace.select import of_agent, select
from agentwatch.trace.summary import Summariser
from agentwatch.trace.writer import ROUND_OVERHEAD

SECONDS = 60.0
MAX_BYTES = 16 << 20
SWEEP_NS = 1_000_000_000


@dataclass(slots=True)
class _Tape:
    """One agent's rounds, oldest first: (number, time of its last record, bytes of memory, round)."""

    past: Past
    rounds: deque[tuple[int, int, int, Round]] = field(default_factory=deque)
    size: int = 0
    dropped: int = 0

    def add(self, number: int, time: int, batches: Round, size: int) -> None:
        self.rounds.append((number, time, size, batches))
        self.size += size

    def trim(self, oldest: int, max_bytes: int) -> None:
        """Forget what is older than `oldest`, and the oldest of what is too much."""
        while self.rounds and (self.rounds[0][1] < oldest or self.size > max_bytes):
            _, time, size, batches = self.rounds.popleft()
            self.size -= size
            self.past.fold(batches)
            self.dropped += time >= oldest


class FlightRecorder:
    """Keeps the last `seconds` of event time of every agent, in at most `max_bytes` each.

    A round is kept whole for each agent that has a record in it, and shared between them: a busy
    agent cannot crowd out what a quiet one did. Rounds go when they are `seconds` older than the
    newest of all; `forget` lets go of an agent at once. `rules` are those in force at the beginning,
    `digest` theirs.
    """

    def __init__(
        self,
        layouts: Mapping[BatchKind, Layout],
        byte_order: str,
        *,
        seconds: float = SECONDS,
        max_bytes: int = MAX_BYTES,
        rules: bytes = b"",
        digest: str = "",
    ) -> None:
        self._summarise = Summariser(layouts, byte_order)
        self._span = int(seconds * 1e9)
        self._max_bytes = max_bytes
        self._tapes: dict[int, _Tape] = {HOST: _Tape(Past(rules, digest, of=(HOST,)))}
        self._number = 0
        self._newest = self._swept = 0

    def append(self, batches: Round) -> None:
        """Keep a round. Costs some 0.15 µs a slot and 0.5 µs a record; never raises."""
        summary = self._summarise((batches,))
        if not summary.records:
            return
        self._number += 1
        self._newest = max(self._newest, summary.last_time)
        size = size_of(batches) + ROUND_OVERHEAD
        for agent in summary.agents:
            tape = self._tapes.get(agent)
            if tape is None:
                tape = self._tapes[agent] = _Tape(Past(of=(agent,)))
            tape.add(self._number, summary.last_time, batches, size)
            tape.trim(self._newest - self._span, self._max_bytes)
        if self._newest - self._swept >= SWEEP_NS:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of what agents that fell silent left behind."""
        self._swept = self._newest
        for tape in self._tapes.values():
            tape.trim(self._newest - self._span, self._max_bytes)

    def agents(self) -> list[int]:
        """The numbers of the agents of whom something is kept."""
        return sorted(agent for agent, tape in self._tapes.items() if tape.rounds)

    def forget(self, agent: int) -> None:
        if agent != HOST:
            self._tapes.pop(agent, None)

    def dropped(self, agent: int) -> int:
        """How many rounds within the span were let go of for want of room since the agent came."""
        tape = self._tapes.get(agent)
        return tape.dropped if tape else 0

    def rounds(self, agents: Iterable[int] | None = None) -> list[Round]:
        """The rounds kept for these agents and the host (for all by default), in their order, each once."""
        found: dict[int, Round] = {}
        self._sweep()
        for agent in self._tapes if agents is None else {*agents, HOST}:
            tape = self._tapes.get(agent)
            if tape is not None:
                found.update((number, batches) for number, _, _, batches in tape.rounds)
        return [found[number] for number in sorted(found)]

    @property
    def rules(self) -> tuple[bytes, str]:
        """The rules that were in force where the tapes begin, and their digest."""
        return self._tapes[HOST].past.rules, self._tapes[HOST].past.digest

    def tape(self, agent: int) -> list[Round]:
        """What a trace of an agent begins with: what was so where its tape begins, then its tape.

        Of rounds that it shares with others only what concerns it, or all.
        """
        self._sweep()
        keep = of_agent(agent)
        found = [*self._tapes[HOST].past.rounds()]
        if agent in self._tapes:
            found += self._tapes[agent].past.rounds()
        found += [select(batches, keep) for batches in self.rounds([agent])]
        return [batches for batches in found if batches]
