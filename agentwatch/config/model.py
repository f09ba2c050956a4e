"""What can be configured. Defaults are those of a daemon that watches and does not act."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agentwatch.config.record import Incidents, Record


@dataclass(frozen=True, slots=True)
class Policy:
    """What may be done to an agent."""

    mode: str = "monitor"  # monitor or enforce
    max_response: str = "kill"  # alert, pause or kill: never more than this


@dataclass(frozen=True, slots=True)
class Control:
    """The control socket. Root may act; members of `act_group` too; those of `read_group` may ask."""

    socket: Path = Path("/run/agentwatch/control.sock")
    act_group: str = ""
    read_group: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Sigma rules and operators' exceptions; without paths the shipped rules."""

    paths: tuple[Path, ...] = ()
    exceptions: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    run_dir: Path = Path("/run/agentwatch")
    state_dir: Path = Path("/var/lib/agentwatch")
    policy: Policy = field(default_factory=Policy)
    rules: Rules = field(default_factory=Rules)
    control: Control = field(default_factory=Control)
    incidents: Incidents = field(default_factory=Incidents)
    record: Record = field(default_factory=Record)
