"""Markers: what a trainer or an agent says of its work, such as run, episode and tool call.

A marker stands on an agent as a whole, or on a process: what this process starts from then on
inherits it, as it inherits its environment. What the agent says of itself never replaces what was
said from outside. All of it is bounded; a name or value that is too long is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

KEPT: Final = 32  # markers of one owner; the one set longest ago goes first
NAME_LENGTH: Final = 64  # characters
VALUE_LENGTH: Final = 256
CLAIMED: Final = "agent"
"""The source of a marker that a process of the agent set."""


class Marker(NamedTuple):
    """A value, and whether it is only the agent's own word."""

    value: str
    claimed: bool


Markers = Mapping[str, Marker]
"""Never changed in place: processes share what they inherit."""

NO_MARKERS: Final[Markers] = {}


def put(markers: Markers, name: str, value: str, source: str) -> Markers:
    """The markers with this one set; an empty value takes it away."""
    name, claimed = name[:NAME_LENGTH], source == CLAIMED
    before = markers.get(name)
    if before is not None and claimed and not before.claimed:
        return markers
    changed = {key: marker for key, marker in markers.items() if key != name}
    if value:
        changed[name] = Marker(value[:VALUE_LENGTH], claimed)
        if len(changed) > KEPT:
            del changed[_least(changed)]
    return changed


def _least(markers: Markers) -> str:
    """Which goes first: of what the agent said, then of all, the oldest."""
    return next((name for name, marker in markers.items() if marker.claimed), next(iter(markers)))


def joined(of_agent: Markers, of_process: Markers) -> dict[str, str]:
    """What stands on a process of an agent, by name. The process's own word goes before the agent's."""
    if not of_process:
        return {name: marker.value for name, marker in of_agent.items()}
    found = dict(of_agent)
    for name, marker in of_process.items():
        above = found.get(name)
        if above is None or above.claimed or not marker.claimed:
            found[name] = marker
    return {name: marker.value for name, marker in found.items()}
