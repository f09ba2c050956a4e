"""Beacons: connections to one place outside again and again, at even intervals, with little on each.

As RITA (Active Countermeasures) grades them: by how far the intervals scatter round their median. An
implant sleeps for a set time and adds a share of it at random (0 to 50 % in common use); people, builds
and retries come in bursts. Honest pollers are even, too: this is a fact to look at, not a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from agentwatch.detect.addresses import is_inside
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.enrich.facts import behaviour_sighting
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import Type

PLACES_KEPT: Final = 2048
"""Places remembered over all agents; the one connected to longest ago is let go first."""
INTERVALS: Final = 12
"""Intervals looked at; the first verdict needs as many."""
SHORTEST_NS: Final = 5_000_000_000
"""Median interval from which on it is no retry."""
SCATTER: Final = 0.3
"""Median deviation from the median, as a share of it, up to which intervals are even."""

_STREAM = 1  # SOCK_STREAM


class Beacons:
    """Events of category `network_behaviour` with Kind beacon: `Interval` in seconds, `Jitter` as a share."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._places: dict[tuple[tuple[int, int], str, int], list[int]] = {}  # times of the last connects
        self.handlers: dict[int, Handler] = {int(Type.CONNECT): self._connect}

    def _connect(self, change: Change) -> Sequence[Sighting]:
        """Whether this connect goes on with a beat."""
        flow = change.flow
        if flow is None or flow.socktype != _STREAM or is_inside(flow.remote):
            return NOTHING
        place = (self._state.agent(flow.agent).key, flow.remote, flow.remote_port)
        times = self._places.pop(place, None)
        if times is None:
            times = []
            if len(self._places) >= PLACES_KEPT:
                del self._places[next(iter(self._places))]
        self._places[place] = times  # to the end: the order is that of the last connect
        times.append(change.time)
        if len(times) <= INTERVALS:
            return NOTHING
        found = beat(times)
        times.clear()
        if found is None:
            return NOTHING
        interval, jitter = found
        facts: dict[str, Value] = {
            "Kind": "beacon",
            "Interval": round(interval / 1e9, 1),
            "Jitter": round(jitter, 2),
            "Protocol": flow.transport,
        }
        return (behaviour_sighting(self._state, "network_behaviour", change, facts),)


def beat(times: list[int]) -> tuple[int, float] | None:
    """The median interval in nanoseconds and the scatter round it, where the times are a beat."""
    intervals = [after - before for before, after in pairwise(times)]
    middle = int(median(intervals))
    if middle < SHORTEST_NS:
        return None
    scatter = median(abs(interval - middle) for interval in intervals) / middle
    return (middle, scatter) if scatter <= SCATTER else None
