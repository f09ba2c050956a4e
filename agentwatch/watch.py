"""A watch in the kernel: the probes, attached to the cgroups of agents, and the source that reads them.

It is there before rules and detectors are loaded: the sooner it is, the less of an agent that runs
already is missed. What happens meanwhile waits in the rings.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from agentwatch.clock import now
from agentwatch.enrich import watched_files
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.probes import MAX_AGENTS, Probes
from agentwatch.schema.events import Type
from agentwatch.sources.kernel import KernelSource

if TYPE_CHECKING:
    from agentwatch.sources.inventory import Inventory

AGENT = 1  # the number of the first agent: where there is one alone, its number


@dataclass(frozen=True, slots=True)
class Options:
    """How an agent is watched."""

    name: str
    mode: str  # monitor or enforce
    command: tuple[str, ...] = ()
    running: bool = False  # the agent runs already: stock is taken of it
    max_response: str = "kill"


@dataclass(slots=True)
class Watched:
    """An agent under watch. `began` is in ns since boot."""

    options: Options
    cgroup: Cgroup
    began: int
    _stack: ExitStack

    def close(self) -> None:
        """Detach from its cgroup, which is the caller's to close."""
        self._stack.close()


class TooMany(ValueError):
    """There are numbers for so many agents at once and no more."""


class Watch:
    """Agents under watch by one set of probes, from `began` (ns since boot) until it is closed."""

    def __init__(self) -> None:
        self.agents: dict[int, Watched] = {}
        self._last = 0
        self.began = now()
        with ExitStack() as stack:
            self.probes = stack.enter_context(Probes())
            self.source = KernelSource(self.probes)
            stack.callback(self.source.close)
            self.probes.guard_monitor(os.getpid())
            self.probes.know_initial()
            self.probes.watch_names(watched_files.names())
            self._stack = stack.pop_all()

    def add(self, options: Options, cgroup: Cgroup) -> int:
        """Attach to an agent's cgroup; its number. Raises `TooMany`.

        Its first records say who is watched, what runs already and what is not seen; whatever
        happens while they are made is told after them.
        """
        number = self._free_number()
        began = now()
        self.source.watch(number)
        self.source.note(Type.AGENT, number, options.name, cgroup.name, cgroup.id, options.mode, time=began)
        with ExitStack() as stack:
            inventory = self._inventory(number, cgroup, stack) if options.running else None
            if inventory is not None:
                inventory.take(began)  # first, so that the cgroup's programs know whose a socket is
            stack.enter_context(self.probes.watch_cgroup(number, cgroup.fileno(), cgroup.id))
            if inventory is not None:
                inventory.look_again()
            for missing in self.probes.missing:
                self.source.note(
                    Type.COVERAGE, number, missing.probe, missing.error, missing.cost, time=began
                )
            self.agents[number] = Watched(options, cgroup, began, stack.pop_all())
        return number

    def remove(self, number: int) -> None:
        """Detach from an agent. What it did until now is still in the rings."""
        self.source.unwatch(number)
        self.agents.pop(number).close()
        self.probes.untag(number)  # what goes on is no agent any more, and its number another's soon

    def _inventory(self, number: int, cgroup: Cgroup, stack: ExitStack) -> Inventory:
        """What takes stock of an agent that runs already, now and again until it is watched no more."""
        from agentwatch.sources.inventory import Inventory  # noqa: PLC0415 (a new agent has none)

        inventory = Inventory(self.source, self.probes, number, cgroup)

        def sweep() -> None:
            inventory.take(now())

        self.source.sweeps.append(sweep)
        stack.callback(self.source.sweeps.remove, sweep)
        return inventory

    def _free_number(self) -> int:
        """Not one that was given back a moment ago: its last records may not have been read."""
        for step in range(1, MAX_AGENTS):
            number = (self._last + step - 1) % (MAX_AGENTS - 1) + 1
            if number not in self.agents:
                self._last = number
                return number
        raise TooMany(f"{len(self.agents)} agents are watched, and no more can be")

    def close(self) -> None:
        """Detach from every agent and unload the probes."""
        for number in list(self.agents):
            self.remove(number)
        self._stack.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
