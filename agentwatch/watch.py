"""A watch in the kernel: the probes attached to an agent's cgroup, and the source that reads them.

It is there before rules and detectors are loaded: the sooner it is, the less of an agent that runs
already is missed. What happens meanwhile waits in the rings.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agentwatch.clock import now
from agentwatch.enrich import watched_files
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.probes import Probes
from agentwatch.schema.events import Type
from agentwatch.sources.kernel import KernelSource

AGENT = 1  # a watch is of one agent


@dataclass(frozen=True, slots=True)
class Options:
    """How an agent is watched."""

    name: str
    mode: str  # monitor or enforce
    record: Path | None = None
    command: tuple[str, ...] = ()
    running: bool = False  # the agent runs already: stock is taken of it


class Watch:
    """One agent under watch, from `began` (ns since boot) until it is closed."""

    def __init__(self, options: Options, cgroup: Cgroup) -> None:
        self.options = options
        self.cgroup = cgroup
        with ExitStack() as stack:
            self.probes = stack.enter_context(Probes())
            self.source = KernelSource(self.probes)
            stack.callback(self.source.close)
            self.probes.guard_monitor(os.getpid())
            self.probes.watch_names(watched_files.names())
            self.source.watch(AGENT)
            self.began = now()
            stack.enter_context(self._attach())
            self._stack = stack.pop_all()

    def _attach(self) -> ExitStack:
        """Attach to the cgroup. The first records say who is watched, what runs already and what is
        not seen; whatever happens while they are made is told after them."""
        options, cgroup, began = self.options, self.cgroup, self.began
        self.source.note(Type.AGENT, AGENT, options.name, cgroup.name, cgroup.id, options.mode, time=began)
        if options.running:
            from agentwatch.sources.inventory import Inventory  # noqa: PLC0415 (a new agent has none)

            inventory = Inventory(self.source, self.probes, AGENT, cgroup)
            inventory.take(began)  # first, so that the cgroup's programs know whose a socket is
        attached = self.probes.watch_cgroup(AGENT, cgroup.fileno(), cgroup.id)
        if options.running:
            inventory.look_again()
            self.source.sweeps.append(lambda: inventory.take(now()))
        for missing in self.probes.missing:
            self.source.note(Type.COVERAGE, AGENT, missing.probe, missing.error, missing.cost, time=began)
        return attached

    def close(self) -> None:
        """Detach the probes."""
        self._stack.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
