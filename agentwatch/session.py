"""A live session: one agent watched on this host, with everything between the kernel and the alerts."""

from __future__ import annotations

import gc
import os
import pwd
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from agentwatch.clock import now
from agentwatch.enrich.state import Change, State
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.probes import Probes
from agentwatch.pipeline import Pipeline, Sink
from agentwatch.respond import cgroup as mechanics
from agentwatch.respond.decide import Decision
from agentwatch.respond.outcome import Outcome
from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import Type
from agentwatch.sources.base import Round
from agentwatch.sources.files import read_agent_file
from agentwatch.sources.inventory import Inventory
from agentwatch.sources.kernel import KernelSource

if TYPE_CHECKING:
    from agentwatch.trace.writer import TraceWriter

AGENT = 1  # a session watches one agent


def clock_offset() -> int:
    """Wall clock minus boot clock, ns."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - now()


def users() -> dict[int, str]:
    """Names of the host's users, for the User field; recorded in the trace."""
    return {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()[:1000]}


class CgroupActuator:
    """Freezes or kills the agent's cgroup, and hands what it did to the source as a record."""

    def __init__(self, cgroup: Cgroup, source: KernelSource) -> None:
        self._cgroup = cgroup
        self._source = source

    def act(self, decision: Decision) -> None:
        """Carry a rule's decision out."""
        self._do(decision.response, decision.seq, decision.rule.id)

    def by_hand(self, response: str, who: str) -> Outcome:
        """What an operator asked for: pause, resume or kill."""
        return self._do(response, 0, who)

    def _do(self, response: str, seq: int, rule: str) -> Outcome:
        acts: dict[str, Callable[[Cgroup], Outcome]] = {
            "pause": mechanics.freeze,
            "kill": mechanics.kill,
            "resume": mechanics.thaw,
        }
        act = acts.get(response)
        outcome = Outcome("failed", f"{response} is not available") if act is None else act(self._cgroup)
        fields = (seq, rule, response, outcome.result, outcome.error, outcome.acted, outcome.settled)
        self._source.note(Type.ACTION, AGENT, *fields)
        return outcome


class LiveRequests:
    """Answers what detectors ask, as records."""

    def __init__(self, probes: Probes, source: KernelSource) -> None:
        self._probes = probes
        self._source = source

    def read_file(self, path: str, change: Change) -> None:
        """Read a file of the agent's, its `~` being the home of the process's user."""
        process = change.process
        wanted = path
        if path.startswith("~/"):
            with suppress(KeyError):
                wanted = pwd.getpwuid(process.uid).pw_dir + path[1:]
        content, error = read_agent_file(process.pid, wanted, process.cwd)
        self._source.note(Type.FILE, AGENT, path, content, error, tgid=process.pid, start=process.start)

    def follow(self, cookie: int) -> None:
        """Have the probes report further traffic of a flow."""
        self._probes.follow(cookie)


@dataclass(frozen=True, slots=True)
class Options:
    """How a session is run."""

    name: str
    mode: str  # monitor or enforce
    rules: RuleSet
    record: Path | None = None
    command: tuple[str, ...] = ()
    running: bool = False  # the agent runs already: stock is taken of it


class Session:
    """Watches one agent, from its first instruction or from where it is, to the end of its tree."""

    def __init__(self, options: Options, cgroup: Cgroup, probes: Probes, sinks: Sequence[Sink]) -> None:
        self.options = options
        self.cgroup = cgroup
        self.probes = probes
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.source = KernelSource(self.probes)
            stack.callback(self.source.close)
            self.probes.guard_monitor(os.getpid())
            self.source.watch(AGENT)
            stack.enter_context(self._begin())
            self.actuator = CgroupActuator(cgroup, self.source)
            offset = clock_offset()
            names = users()
            self._writer = stack.enter_context(self._recorder(offset, names)) if options.record else None
            self.pipeline = Pipeline(
                Engine(options.rules, clock_offset=offset),
                state=State(names),
                actuator=self.actuator,
                sinks=sinks,
                requests=LiveRequests(probes, self.source),
                clock_offset=offset,
            )
            self._stack = stack.pop_all()
        self._reported_drops = 0
        # What exists by now stays: the collector need not go through it on the event path.
        gc.collect()
        gc.freeze()

    @property
    def state(self) -> State:
        return self.pipeline.state

    @property
    def paused(self) -> bool:
        return self.state.agent(AGENT).state == "paused"

    def _recorder(self, offset: int, names: dict[int, str]) -> TraceWriter:
        assert self.options.record is not None
        # Only a session that records pays for loading the recorder.
        from agentwatch.trace.record import trace_header  # noqa: PLC0415
        from agentwatch.trace.writer import TraceWriter  # noqa: PLC0415

        header = trace_header(self.options, offset, names, self.probes)
        return TraceWriter(self.options.record, header, rules=self.options.rules.to_bytes(), overwrite=True)

    def _begin(self) -> ExitStack:
        """Watch the cgroup. The first records say who is watched, under which rules, what runs already
        and what is not seen; whatever happens while they are made is told after them."""
        options, cgroup, began = self.options, self.cgroup, now()
        self.source.note(Type.AGENT, AGENT, options.name, cgroup.name, cgroup.id, options.mode, time=began)
        self.source.note(Type.RULES, AGENT, options.rules.digest, b"", time=began)
        inventory = Inventory(self.source, self.probes, AGENT, cgroup, began)
        if options.running:
            inventory.take()  # first, so that the cgroup's programs know whose a socket is
        watching = self.probes.watch_cgroup(AGENT, cgroup.fileno(), cgroup.id)
        if options.running:
            inventory.take()  # again, for the sockets that were made in between
        for missing in self.probes.missing:
            self.source.note(Type.COVERAGE, AGENT, missing.probe, missing.error, missing.cost, time=began)
        return watching

    def use_rules(self, rules: RuleSet) -> None:
        """Have other rules in force. They are recorded first: a replay changes them at the same record."""
        self.source.note(Type.RULES, AGENT, rules.digest, rules.to_bytes())

    def step(self, timeout: float) -> Round:
        """Wait for records up to `timeout` seconds and fold what came."""
        batches = self.source.poll(timeout)
        self._fold(batches)
        return batches

    def _fold(self, batches: Round) -> None:
        if not batches:
            return
        if self._writer is not None:
            self._writer.append(batches)
            self._count_drops()
        self.pipeline.process(batches)

    def _count_drops(self) -> None:
        """What could not be written to the trace is said in the trace, on the alerts and on the screen."""
        assert self._writer is not None
        dropped = self._writer.lost_records
        if dropped > self._reported_drops:
            self.source.note(Type.LOSS, AGENT, 0, dropped - self._reported_drops, "not recorded")
            self._reported_drops = dropped

    def finish(self) -> None:
        """Fold everything that is left, then close. Records in flight are not waited for."""
        self.source.count_losses()
        while True:
            batches = self.source.take()
            self._fold(batches)
            if self.source.drained():
                break
        self.pipeline.finish()
        self.close()

    def close(self) -> None:
        """Detach the probes, end the trace."""
        self._stack.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
