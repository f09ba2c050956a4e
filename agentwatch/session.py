"""A live session: everything between a watch in the kernel and the alerts."""

from __future__ import annotations

import gc
import pwd
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
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
from agentwatch.sources.kernel import KernelSource
from agentwatch.watch import AGENT, Watch

if TYPE_CHECKING:
    from agentwatch.trace.writer import TraceWriter


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

    def unfollow(self, cookie: int) -> None:
        """Have them report no more of it than of any other."""
        self._probes.unfollow(cookie)


class Session:
    """Folds what a watch reports, until the agent's tree has ended: the pipeline, live."""

    def __init__(self, watch: Watch, rules: RuleSet, sinks: Sequence[Sink]) -> None:
        self.options = watch.options
        self.cgroup = watch.cgroup
        self.probes = watch.probes
        self.source = watch.source
        self.source.note(Type.RULES, AGENT, rules.digest, b"", time=watch.began)
        self.actuator = CgroupActuator(watch.cgroup, watch.source)
        self._writer: TraceWriter | None = None
        self._redact: Callable[[Round], Round] | None = None
        self._reported_drops = 0
        offset, names = clock_offset(), users()
        if watch.options.record is not None:
            self._record(watch.options.record, watch, rules, offset, names)
        self.pipeline = Pipeline(
            Engine(rules, clock_offset=offset),
            state=State(names),
            actuator=self.actuator,
            sinks=sinks,
            requests=LiveRequests(watch.probes, watch.source),
            clock_offset=offset,
        )
        # What exists by now stays: the collector need not go through it on the event path.
        gc.collect()
        gc.freeze()

    @property
    def state(self) -> State:
        return self.pipeline.state

    @property
    def paused(self) -> bool:
        return self.state.agent(AGENT).state == "paused"

    def _record(self, path: Path, watch: Watch, rules: RuleSet, offset: int, names: dict[int, str]) -> None:
        """Record what comes, without the secrets in it. Only a session that records loads what that needs."""
        from agentwatch.trace.record import trace_header  # noqa: PLC0415
        from agentwatch.trace.redact import Redactor  # noqa: PLC0415
        from agentwatch.trace.writer import TraceWriter  # noqa: PLC0415

        redactor = Redactor()
        options = replace(self.options, command=redactor.command(self.options.command))
        header = trace_header(options, rules, offset, names, watch.probes)
        self._writer = TraceWriter(path, header, rules=rules.to_bytes(), overwrite=True)
        self._redact = redactor

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
            # Before anything is derived from it, so that a replay sees what was seen live.
            assert self._redact is not None
            batches = self._redact(batches)
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
        """End the trace. The watch is the caller's to close."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
