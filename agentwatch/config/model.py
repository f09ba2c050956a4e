"""What can be configured: the one declaration of it.

Validation, defaults, environment variables, the JSON schema, `config show` and docs/configuration.md
come from these dataclasses. A section is a dataclass and one field of `Config`; a key is a field made
by `setting`, of type bool, int, str or Path (each also `| None`), or a tuple of str or of Path. A tuple
of dataclasses is an array of tables, told apart by their `id`. Another section is a dataclass in a file
of its own and one line in `Config`.

Defaults are those of a daemon that watches and does not act.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentwatch.config.declare import section, setting, tables
from agentwatch.config.record import Incidents, Record
from agentwatch.config.sinks import Sinks

PLACEHOLDERS = ("container", "pod", "unit", "job", "cgroup", "exe", "user", "label", "pid")
"""What a template of an agent's name may hold, in braces."""

_TEMPLATE = r"(?:[A-Za-z0-9._-]|\{(?:" + "|".join(PLACEHOLDERS) + r")\})+"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of an agent's cgroup, written where its controllers are enabled, and left as they are
    where nothing is given."""

    pids_max: int | None = setting("the most processes and threads (pids.max)", None, minimum=1)
    memory_max: str | None = setting(
        "the most memory, in bytes or with K, M, G, T (memory.max)", None, pattern=r"max|[1-9][0-9]*[KMGT]?"
    )
    memory_high: str | None = setting(
        "the memory from which on it is slowed down and made to give back, written likewise (memory.high)",
        None,
        pattern=r"max|[1-9][0-9]*[KMGT]?",
    )
    cpu_weight: int | None = setting(
        "share of the CPU beside its siblings (cpu.weight)", None, minimum=1, maximum=10000
    )

    def files(self) -> dict[str, str]:
        """What to write where: the cgroup's files and their values."""
        wanted = {
            "pids.max": self.pids_max,
            "memory.max": self.memory_max,
            "memory.high": self.memory_high,
            "cpu.weight": self.cpu_weight,
        }
        return {name: str(value) for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Policy:
    """What is said of an agent and what may be done to it."""

    mode: str = setting(
        "only tell (monitor), or act as the rules say (enforce)", "monitor", choices=("monitor", "enforce")
    )
    max_response: str = setting(
        "never do more than this; what asks for more is answered by this",
        "kill",
        choices=("alert", "pause", "kill"),
    )
    only: tuple[str, ...] = setting(
        "the rules that speak of this agent: ids, names, tags (`attack.t1496`) or tactics (`impact`); all "
        "where none is named",
        (),
        pattern=r"\S.*",
    )
    without: tuple[str, ...] = setting("rules that do not, named in the same ways", (), pattern=r"\S.*")
    training: tuple[str, ...] = setting(
        "what is the registered training job, whose load on GPUs is expected: paths of programs and scripts, "
        "or `*` for all of the agent",
        (),
        pattern=r"\*|/.+",
    )
    limits: Limits = section(Limits)


@dataclass(frozen=True, slots=True)
class Selector:
    """Who is such an agent. All kinds that are given must match; of a list, one.

    `cgroup` alone takes a cgroup as it is, with all that is in it and below. Everything else looks at
    processes, and takes the tree below the outermost that matches. In patterns `*` stands for
    anything but `/`, `**` for anything, `?` for one character.
    """

    cgroup: tuple[str, ...] = setting(
        "patterns of paths below the mount of cgroup v2 (`system.slice/docker-*.scope`)", (), pattern=".+"
    )
    exe: tuple[str, ...] = setting(
        "patterns of the program's path or, without a `/`, of the name of its file or of the script that it "
        "runs",
        (),
        pattern=".+",
    )
    ancestor: tuple[str, ...] = setting("the same of a program above it", (), pattern=".+")
    user: tuple[str, ...] = setting("users, by name or number", (), pattern=r"\S+")
    env: tuple[str, ...] = setting(
        "variables it was started with, as NAME=PATTERN", (), pattern=r"[A-Za-z_][A-Za-z0-9_]*=.*"
    )
    label: str = setting(
        "a file that is there: below the root of a container where the path is absolute, else in the "
        "process's working directory. Its first word is {label}",
        "",
    )

    def flaw(self) -> str:
        """What is wrong with the whole; empty."""
        given = self.cgroup or self.exe or self.ancestor or self.user or self.env or self.label
        return "" if given else "says of nobody: give at least one of cgroup, exe, ancestor, user, env, label"


@dataclass(frozen=True, slots=True)
class AgentTable(Policy):
    """Agents that the daemon finds by itself, and their policy."""

    id: str = setting(
        "the name of this table. One of the same id in a later file takes its place",
        "",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
    )
    name: str = setting(
        "the agent's name, from letters, digits, `._-` and "
        + ", ".join(f"`{{{word}}}`" for word in PLACEHOLDERS)
        + "; where it is empty: that of the container, job, pod or unit, else of the cgroup or program",
        "",
        pattern=f"(?:{_TEMPLATE})?",
    )
    select: Selector = section(Selector)


@dataclass(frozen=True, slots=True)
class Control:
    """The control socket. Root may act; members of `act_group` too; those of `read_group` may ask."""

    socket: Path | None = setting("its path; `control.sock` in `run_dir` where not given", None, live=False)
    act_group: str = setting("a group whose members may do all that root may", "")
    read_group: str = setting("a group whose members may look and not act", "")


@dataclass(frozen=True, slots=True)
class Rules:
    """Sigma rules and operators' exceptions; without paths the shipped rules."""

    paths: tuple[Path, ...] = setting("files and folders of rules; the shipped ones where none is named", ())
    exceptions: tuple[Path, ...] = setting("files of exceptions", ())


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    run_dir: Path = setting(
        "where the control socket and what must survive a restart are", Path("/run/agentwatch"), live=False
    )
    state_dir: Path = setting("where incidents and recordings go", Path("/var/lib/agentwatch"), live=False)
    policy: Policy = section(
        Policy, "What is said of agents that are attached by hand, and the default of those found."
    )
    agent: tuple[AgentTable, ...] = tables(AgentTable.__doc__ or "", inherits="policy")
    rules: Rules = section(Rules)
    control: Control = section(Control)
    sinks: Sinks = section(Sinks)
    incidents: Incidents = section(Incidents)
    record: Record = section(Record)

    @property
    def socket(self) -> Path:
        """The control socket's path."""
        return self.control.socket or self.run_dir / "control.sock"

    def table(self, id: str) -> AgentTable | None:
        """The table of agents of this id."""
        return next((table for table in self.agent if table.id == id), None)
