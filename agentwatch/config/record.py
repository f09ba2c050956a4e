"""What can be configured of incidents and recordings: times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentwatch.config.declare import setting

_DAY = 24 * 3600
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Incidents:
    """The flight recorder: what an agent did before, during and after an alert is written to
    `incidents` in `state_dir`."""

    enabled: bool = setting("keep the last of every agent in memory, and write incidents", True, live=False)
    level: str = setting(
        "the least level of an alert that makes an incident",
        "medium",
        choices=("informational", "low", "medium", "high", "critical"),
        live=False,
    )
    before: int = setting("seconds before the alert", 60, minimum=1, live=False)
    memory: int = setting("bytes kept in memory of each agent", 16 << 20, minimum=1 << 20, live=False)
    after: int = setting("an incident ends so many seconds after its last alert", 30, minimum=1, live=False)
    longest: int = setting(
        "seconds after which it ends though alerts go on; the next makes another", 900, minimum=1, live=False
    )
    max_bytes: int = setting("of all incidents; the oldest go first", 4 * _GIB, minimum=1 << 20, live=False)
    max_age: int = setting("seconds that an incident is kept", 30 * _DAY, minimum=1, live=False)


@dataclass(frozen=True, slots=True)
class Record:
    """Recording of everything, in `traces` in `state_dir`."""

    enabled: bool = setting("record everything that all agents do", False, live=False)
    segment_bytes: int = setting(
        "a file is followed by the next at this size", 256 << 20, minimum=1 << 16, live=False
    )
    segment_age: int = setting("and after so many seconds", 3600, minimum=1, live=False)
    max_bytes: int = setting("of all files; the oldest go first", 16 * _GIB, minimum=1 << 20, live=False)
    max_age: int = setting("seconds that a file is kept", 7 * _DAY, minimum=1, live=False)
    sign: Path | None = setting("an Ed25519 key in PEM that signs what is written; none", None, live=False)
