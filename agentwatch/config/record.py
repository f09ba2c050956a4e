"""What can be configured of incidents and recordings: times in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_DAY = 24 * 3600
_GIB = 1 << 30


def _setting(doc: str, default: Any, *, choices: Sequence[str] = (), minimum: int | None = None) -> Any:
    """A key, with what `agentwatch.config.model` says of keys."""
    return field(
        default=default,
        metadata={
            "doc": doc,
            "choices": tuple(choices),
            "pattern": "",
            "minimum": minimum,
            "maximum": None,
            "live": False,
        },
    )


@dataclass(frozen=True, slots=True)
class Incidents:
    """The flight recorder: what an agent did before, during and after an alert is written to
    `incidents` in `state_dir`."""

    enabled: bool = _setting("keep the last of every agent in memory, and write incidents", True)
    level: str = _setting(
        "the least level of an alert that makes an incident",
        "medium",
        choices=("informational", "low", "medium", "high", "critical"),
    )
    before: int = _setting("seconds before the alert", 60, minimum=1)
    memory: int = _setting("bytes kept in memory of each agent", 16 << 20, minimum=1 << 20)
    after: int = _setting("an incident ends so many seconds after its last alert", 30, minimum=1)
    longest: int = _setting("seconds after which it ends though alerts go on; the next makes another", 900,
                            minimum=1)  # fmt: skip
    max_bytes: int = _setting("of all incidents; the oldest go first", 4 * _GIB, minimum=1 << 20)
    max_age: int = _setting("seconds that an incident is kept", 30 * _DAY, minimum=1)


@dataclass(frozen=True, slots=True)
class Record:
    """Recording of everything, in `traces` in `state_dir`."""

    enabled: bool = _setting("record everything that all agents do", False)
    segment_bytes: int = _setting("a file is followed by the next at this size", 256 << 20, minimum=1 << 16)
    segment_age: int = _setting("and after so many seconds", 3600, minimum=1)
    max_bytes: int = _setting("of all files; the oldest go first", 16 * _GIB, minimum=1 << 20)
    max_age: int = _setting("seconds that a file is kept", 7 * _DAY, minimum=1)
    sign: Path | None = _setting("an Ed25519 key in PEM that signs what is written; none", None)  # noqa: RUF009
