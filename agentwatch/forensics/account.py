"""What is known of a recording that is replayed: its header, and what it lacks."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agentwatch.enrich.state import State
from agentwatch.pipeline import Pipeline
from agentwatch.replay import STANDARD_INPUT, Observer, Outcome, Recording
from agentwatch.trace.format import TraceHeader

LARGEST_TIME = (1 << 63) - 1  # ns since 1970, in 2262: what a signed 64-bit integer holds


class Account(Observer):
    """`header` is None where nothing could be read; `outcome` is complete after the replay.

    `first` and `last` are the times of its records, in ns since boot.
    """

    header: TraceHeader | None = None
    state: State

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.outcome = Outcome()
        self.first = self.last = 0

    def begin(self, pipeline: Pipeline, header: TraceHeader) -> None:
        self.header, self.state = header, pipeline.state

    def spans(self, first: int, last: int) -> None:
        """There are records of these times."""
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)

    @property
    def name(self) -> str:
        return str(self.recording[0])

    def wall(self, time: int) -> int:
        """Nanoseconds since 1970 from ns since boot, within what 64 bits hold."""
        offset = self.header.clock_offset if self.header else 0
        return max(-LARGEST_TIME, min(time + offset, LARGEST_TIME))

    @property
    def lost(self) -> dict[str, int]:
        """Events that the recording says were lost, by name."""
        lost: dict[str, int] = {}
        for agent in self.state.agents.values() if self.header else ():
            for name, number in agent.lost.items():
                lost[name] = lost.get(name, 0) + number
        return lost

    @property
    def incomplete(self) -> list[str]:
        """Sentences about what is damaged, missing or was lost; none where nothing is."""
        found = list(self.outcome.remarks)
        found += [f"{number} {name} events were lost" for name, number in sorted(self.lost.items())]
        return found

    @property
    def unseen(self) -> list[str]:
        """Sentences about what could not be watched on that host, for want of a probe."""
        if self.header is None:
            return []
        missing = {
            str(probe): [str(one) for one in why] if isinstance(why, list) and why else [str(why)]
            for probe, why in self.header.coverage.items()
        }
        for probe, error, cost in self.state.coverage:
            missing.setdefault(probe, [error, cost])
        return [f"{probe} could not all be watched: {why[-1]}" for probe, why in sorted(missing.items())]


def digest_of(recording: Recording) -> str:
    """SHA-256 of a recording's files, one after the other; empty for standard input."""
    if STANDARD_INPUT in recording:
        return ""
    sha = hashlib.sha256()
    try:
        for path in recording:
            with Path(path).open("rb") as file:
                while data := file.read(1 << 20):
                    sha.update(data)
    except OSError:
        return ""
    return sha.hexdigest()
