"""Runs a command as a watched agent and gives what the kernel reported, decoded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentwatch.kernel.cgroup import Cgroup, create
from agentwatch.respond.cgroup import kill
from agentwatch.rules.model import RuleSet
from agentwatch.schema import decode
from agentwatch.schema.events import BY_NUMBER
from agentwatch.session import Session
from agentwatch.sources.base import Round
from agentwatch.spawn import Child
from agentwatch.watch import AGENT, Options, Watch

NO_RULES = RuleSet(rules=(), digest="")


@dataclass
class Kept:
    """A session and all that it reads. `rows` are (event's name, row) in the order in which they came."""

    session: Session
    rows: list[tuple[str, decode.Row]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def cgroup(self) -> Cgroup:
        """The agent's."""
        return self.session.watch.agents[AGENT].cgroup

    @property
    def paused(self) -> bool:
        return self.session.state.agent(AGENT).state == "paused"

    def resume(self, who: str) -> None:
        """Let a paused agent go on, by hand."""
        self.session.enforcer.by_hand(AGENT, "resume", who)

    def step(self, timeout: float = 0.01) -> None:
        """Fold what there is, waiting a little."""
        self._keep(self.session.step(timeout))

    def until(self, event: str, count: int = 1) -> None:
        """Watch until an event was reported so many times."""
        while len(self.named(event)) < count:
            self.step()
            assert self.cgroup.populated(), f"ended without {event}"

    def named(self, event: str) -> list[dict[str, Any]]:
        """The events of this name, fields by name; `data` is what trails them, decoded rows add up."""
        return [_fields(row) for name, row in self.rows if name == event]

    def _keep(self, batches: Round) -> None:
        for batch in batches:
            self.rows += [(BY_NUMBER[row[decode.TYPE]].name, row) for row in decode.rows_of_batch(batch)]


@dataclass
class Watched(Kept):
    """A command under watch."""

    child: Child = field(kw_only=True)

    def step(self, timeout: float = 0.01) -> None:
        super().step(timeout)
        self.child.reap()

    def until_end(self) -> int:
        """Watch until the whole tree has ended; the command's exit code."""
        while self.cgroup.populated() or not self.session.source.drained():
            self.step()
        self.session.source.count_losses()
        self.step(0)
        return self.child.wait()


def _fields(row: decode.Row) -> dict[str, Any]:
    event = BY_NUMBER[row[decode.TYPE]]
    values = dict(zip((f.name for f in event.fields), decode.unpack(row), strict=True))
    values |= {"tgid": row[decode.TGID], "start": row[decode.START], "flags": row[decode.FLAGS]}
    if event.tail:
        values["data"] = decode.tail(row, values.get("length", 0))
    return values


@contextlib.contextmanager
def watched(
    command: Sequence[str],
    *,
    rules: RuleSet = NO_RULES,
    mode: str = "monitor",
    name: str = "test",
    record: Path | None = None,
    **options: Any,
) -> Iterator[Watched]:
    """Start a command under watch; whatever is left of it is killed at the end."""
    alerts: list[dict[str, Any]] = []
    with create(f"{name}-{os.getpid()}") as cgroup:
        try:
            with (
                contextlib.ExitStack() as stack,
                Child(command, capture=False, stdout_to_stderr=False) as child,
                Watch() as watch,
            ):
                watch.add(Options(name, mode, **options), cgroup)
                session = stack.enter_context(Session(watch, rules, [alerts.append], record=record))
                child.start(cgroup, session.probes, AGENT)
                yield Watched(session, child=child, alerts=alerts)
        finally:
            kill(cgroup)
