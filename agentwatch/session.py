"""A live session: everything between a watch in the kernel and the alerts."""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from agentwatch.clock import now
from agentwatch.collector import settle
from agentwatch.enrich.state import Change, State
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.probes import Probes
from agentwatch.pipeline import Pipeline, Sink
from agentwatch.respond.enforce import Enforcer
from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import HOST, Type
from agentwatch.sources.base import Round
from agentwatch.sources.files import read_agent_file
from agentwatch.sources.kernel import KernelSource
from agentwatch.sources.nvml import Nvml
from agentwatch.watch import Options, Watch

if TYPE_CHECKING:
    from agentwatch.trace.sign import Signer
    from agentwatch.trace.writer import TraceWriter


def clock_offset() -> int:
    """Wall clock minus boot clock, ns."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - now()


def users() -> dict[int, str]:
    """Names of the host's users, for the User field; recorded in the trace."""
    return {entry.pw_uid: entry.pw_name for entry in pwd.getpwall()[:1000]}


class Recorder(Protocol):
    """Takes rounds before they are folded."""

    @property
    def lost_records(self) -> int:
        """How many it could not take."""

    def append(self, batches: Round) -> None:
        """Never waits, never raises."""


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
        self._source.note(
            Type.FILE, process.agent, path, content, error, tgid=process.pid, start=process.start
        )

    def follow(self, cookie: int) -> None:
        """Have the probes report further traffic of a flow."""
        self._probes.follow(cookie)

    def unfollow(self, cookie: int) -> None:
        """Have them report no more of it than of any other."""
        self._probes.unfollow(cookie)


class Session:
    """Folds what a watch of agents reports: the pipeline, live. With `record`, into a trace, too.

    `training` are the paths of programs and scripts that are the registered training job.
    """

    def __init__(
        self,
        watch: Watch,
        rules: RuleSet,
        sinks: Sequence[Sink],
        *,
        record: Path | None = None,
        signer: Signer | None = None,
        training: tuple[str, ...] = (),
    ) -> None:
        self.watch = watch
        self.probes = watch.probes
        self.source = watch.source
        self.source.note(Type.RULES, HOST, rules.digest, b"", time=watch.began)
        self.enforcer = Enforcer(watch.source, watch.probes)
        for number, agent in watch.agents.items():
            self.enforcer.add(number, agent.cgroup, agent.options.max_response)
        self._writer: TraceWriter | None = None
        self._recorder: Recorder | None = None
        self._redact: Callable[[Round], Round] | None = None
        self._reported_drops = 0
        self.lag = 0  # ns from the latest record of the last round to when the round was folded
        self._gpus = Nvml(watch.source)
        watch.source.sweeps.append(self._gpus.sweep)
        self.clock_offset, names = clock_offset(), users()
        if record is not None:
            self._record(record, signer, rules, names, training)
        self.pipeline = Pipeline(
            Engine(rules, clock_offset=self.clock_offset),
            state=State(names, training),
            actuator=self.enforcer,
            sinks=sinks,
            requests=LiveRequests(watch.probes, watch.source),
            clock_offset=self.clock_offset,
        )
        settle()

    @property
    def state(self) -> State:
        return self.pipeline.state

    def _record(
        self,
        path: Path,
        signer: Signer | None,
        rules: RuleSet,
        names: dict[int, str],
        training: tuple[str, ...],
    ) -> None:
        """Record what comes, without the secrets in it. Only a session that records loads what that needs."""
        from agentwatch.trace.record import trace_header  # noqa: PLC0415
        from agentwatch.trace.redact import Redactor  # noqa: PLC0415
        from agentwatch.trace.writer import TraceWriter  # noqa: PLC0415

        redactor = Redactor()
        agents = [
            replace(agent.options, command=redactor.command(agent.options.command))
            for agent in self.watch.agents.values()
        ]
        header = trace_header(agents, rules, self.clock_offset, names, self.probes, training)
        self._recorder = self._writer = TraceWriter(
            path, header, rules=rules.to_bytes(), signer=signer, overwrite=True
        )
        self._redact = redactor

    def record_with(self, recorder: Recorder, *, redact: bool) -> None:
        """Hand every round to a recorder that is not ours to close, `redact`ed first or as it is."""
        from agentwatch.trace.redact import Redactor  # noqa: PLC0415

        self._recorder = recorder
        self._redact = Redactor() if redact else None

    def add(self, options: Options, cgroup: Cgroup) -> int:
        """Watch one more agent; its number. Raises `TooMany`."""
        number = self.watch.add(options, cgroup, in_slices=True)
        self.enforcer.add(number, cgroup, options.max_response)
        return number

    def set_policy(self, number: int, options: Options) -> None:
        """Watch an agent on other terms. They are recorded first, like everything else."""
        self.watch.set_policy(number, options)
        self.enforcer.cap(number, options.max_response)

    def remove(self, number: int) -> None:
        """Watch an agent no longer; it stays as it is."""
        self.enforcer.remove(number)
        self.watch.remove(number)

    def mark(
        self, agent: int, markers: Mapping[str, str], source: str, process: tuple[int, int] = (0, 0)
    ) -> None:
        """Set markers on an agent, or on a process of it (pid, start) and what that starts from now on."""
        tgid, start = process
        for name, value in markers.items():
            self.source.note(Type.MARKER, agent, name, value, source, tgid=tgid, start=start)

    def use_rules(self, rules: RuleSet) -> None:
        """Have other rules in force. They are recorded first: a replay changes them at the same record."""
        self.source.note(Type.RULES, HOST, rules.digest, rules.to_bytes())

    def step(self, timeout: float) -> Round:
        """Wait for records up to `timeout` seconds and fold what came."""
        batches = self.source.poll(timeout)
        self._fold(batches)
        return batches

    def _fold(self, batches: Round) -> None:
        if not batches:
            return
        if self._redact is not None:
            batches = self._redact(batches)
        if self._recorder is not None:
            # Before anything is derived from it, so that a replay sees what was seen live.
            self._recorder.append(batches)
            self._count_drops()
        self.pipeline.process(batches)
        self.lag = now() - self.pipeline.counters.newest

    def _count_drops(self) -> None:
        """What could not be written to the trace is said in the trace, on the alerts and on the screen."""
        assert self._recorder is not None
        dropped = self._recorder.lost_records
        if dropped > self._reported_drops:
            self.source.note(Type.LOSS, HOST, 0, dropped - self._reported_drops, "not recorded")
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
        """End the trace and the sampling of GPUs. The watch is the caller's to close."""
        self._gpus.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
