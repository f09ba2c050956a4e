"""A watch in the kernel: the probes, attached to the cgroups of agents, and the source that reads them.

It is there before rules and detectors are loaded: the sooner it is, the less of an agent that runs
already is missed. What happens meanwhile waits in the rings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from agentwatch.clock import now
from agentwatch.enrich import watched_files
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.errors import ProbeError
from agentwatch.kernel.probes import MAX_AGENTS, Probes
from agentwatch.schema.events import Type
from agentwatch.sources.kernel import KernelSource

if TYPE_CHECKING:
    from agentwatch.sources.inventory import Inventory

FIRST_NS = 2_000_000  # for what is found of an agent before anything else goes on
AGENT = 1  # the number of the first agent: where there is one alone, its number


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy of the configuration says besides mode and response; see the record `policy`."""

    table: str = ""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    origin: str = ""
    training: tuple[str, ...] = ()  # paths of what is the registered training job, or *


@dataclass(frozen=True, slots=True)
class Options:
    """How an agent is watched."""

    name: str
    mode: str  # monitor or enforce
    command: tuple[str, ...] = ()
    running: bool = False  # the agent runs already: stock is taken of it
    max_response: str = "kill"
    terms: Terms | None = None  # what its policy says besides


@dataclass(slots=True)
class Watched:
    """An agent under watch. `began` is in ns since boot."""

    options: Options
    cgroup: Cgroup
    began: int
    links: ExitStack  # to its cgroup and to the sweeps
    ready: bool = False  # stock has been taken of it, and all it does is seen

    def close(self) -> None:
        """Detach from its cgroup, which is the caller's to close."""
        self.links.close()


def _training(options: Options) -> tuple[str, ...]:
    return options.terms.training if options.terms else ()


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

    def add(self, options: Options, cgroup: Cgroup, *, in_slices: bool = False) -> int:
        """Attach to an agent's cgroup; its number. Raises `TooMany`.

        Its first records say who is watched, what runs already and what is not seen; whatever
        happens while they are made is told after them. `in_slices` a big tree that runs already is
        found beside other agents' events, and `ready` says when; its traffic is seen from then on.
        """
        number = self._free_number()
        began = now()
        self.source.watch(number)
        self.source.note(Type.AGENT, number, options.name, cgroup.name, cgroup.id, options.mode, time=began)
        self._note_policy(number, options, began)
        if training := _training(options):
            self.source.note(Type.TRAINING, number, training, time=began)
        watched = Watched(options, cgroup, began, ExitStack())
        try:
            if options.running:
                self._take_stock(number, watched, in_slices)
            else:
                self._attach(number, watched, began)
        except BaseException:
            self.source.unwatch(number)
            watched.close()
            self.probes.untag(number)
            raise
        self.agents[number] = watched
        return number

    def _attach(self, number: int, watched: Watched, time: int) -> None:
        """Attach the cgroup's programs, and say which could not be."""
        cgroup = watched.cgroup
        watched.links.enter_context(self.probes.watch_cgroup(number, cgroup.fileno(), cgroup.id))
        for missing in self.probes.missing:
            self.source.note(Type.COVERAGE, number, *missing, time=time)
        watched.ready = True

    def _take_stock(self, number: int, watched: Watched, in_slices: bool) -> None:
        """Find what runs already: all of it now, or as much as is quick and the rest in slices."""
        from agentwatch.sources.inventory import Inventory  # noqa: PLC0415 (a new agent has none)

        inventory = Inventory(self.source, self.probes, number, watched.cgroup)
        inventory.time = watched.began  # what is found was there before the first event
        work = self._stock(number, watched, inventory)
        watched.links.callback(self.source.drop, work)
        self.source.begin(work, FIRST_NS if in_slices else None)
        inventory.time = None

    def _stock(self, number: int, watched: Watched, inventory: Inventory) -> Iterator[None]:
        yield from inventory.take()  # first, so that the cgroup's programs know whose a socket is
        try:
            self._attach(number, watched, inventory.time or now())
        except ProbeError as error:
            if inventory.time is not None:
                raise  # nobody relies on it yet
            cost = "what this agent does in the network is not seen"
            self.source.note(Type.COVERAGE, number, "programs of its cgroup", str(error), cost)
            watched.ready = True
        yield from inventory.look_again()
        self.source.sweeps.append(inventory.take)
        watched.links.callback(self.source.sweeps.remove, inventory.take)

    def set_policy(self, number: int, options: Options) -> None:
        """Watch an agent on other terms from now on; its name stays."""
        before, self.agents[number].options = self.agents[number].options, options
        time = now()
        self._note_policy(number, options, time)
        if _training(options) != _training(before):
            self.source.note(Type.TRAINING, number, _training(options), time=time)

    def _note_policy(self, number: int, options: Options, time: int) -> None:
        terms = options.terms
        if terms is None:
            return  # the record of the agent says all
        fields = (terms.only, terms.without, terms.limits, terms.origin)
        self.source.note(
            Type.POLICY, number, terms.table, options.mode, options.max_response, *fields, time=time
        )

    def remove(self, number: int) -> None:
        """Detach from an agent. What it did until now is still in the rings."""
        self.source.unwatch(number)
        self.agents.pop(number).close()
        self.probes.untag(number)  # what goes on is no agent any more, and its number another's soon

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
