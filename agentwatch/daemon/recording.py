"""The core's end of the recorder: rounds go out, and never wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

from agentwatch.clock import now
from agentwatch.config.model import Config
from agentwatch.daemon.helper import Helper
from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import Type
from agentwatch.session import Session, users
from agentwatch.sources.base import Round
from agentwatch.trace.past import told
from agentwatch.trace.record import LAYOUTS, trace_header
from agentwatch.trace.summary import Summariser


def settings_of(config: Config, session: Session, rules: RuleSet) -> dict[str, Any]:
    """What the recorder must know first."""
    header = trace_header((), rules, session.clock_offset, users(), session.probes)
    record = asdict(config.record)
    return {
        "folder": str(config.state_dir),
        "header": header.pack(),
        "rules": rules.to_bytes(),
        "incidents": asdict(config.incidents),
        "record": {**record, "sign": str(config.record.sign) if config.record.sign else None},
    }


class Recording:
    """Hands rounds and alerts to the recorder. What it has no room for is dropped, counted and told.

    `answer` gets a ticket and what became of a `save`.
    """

    def __init__(
        self,
        helper: Helper,
        session: Session,
        say: Callable[[str], None],
        answer: Callable[[int, dict[str, Any]], None],
        *,
        is_continuous: bool,
    ) -> None:
        self._helper, self._session, self._say, self._answer = helper, session, say, answer
        self._is_continuous = is_continuous
        self._summarise = Summariser(LAYOUTS, "little")
        self._missed = 0
        self._lost = 0
        self._starts = helper.starts
        self._waiting: dict[int, None] = {}
        self._telling: Iterator[Round] = iter(())

    @property
    def lost_records(self) -> int:
        """What a recording lacks. The flight recorder's gaps are told in its incidents alone."""
        return self._lost if self._is_continuous else 0

    def append(self, batches: Round) -> None:
        """A round, before it is folded."""
        if self._missed and self._helper.send("missed", self._missed):
            self._missed = 0
        plain = [(int(batch.kind), batch.data) for batch in batches]
        if self._missed or not self._helper.send("round", plain):
            records = self._summarise((batches,)).records
            self._missed += records
            self._lost += records

    def alert(self, number: int, alert: Mapping[str, Any]) -> None:
        """An alert was raised by what was handed over."""
        rule = alert["rule"]
        told = {"time": alert["time"], "rule": rule["id"], "title": rule["title"], "level": rule["level"]}
        self._helper.send("alert", number, alert["agent"], told)

    def save(self, ticket: int, number: int, name: str, who: str) -> None:
        """Have the last of an agent written."""
        self._waiting[ticket] = None
        if not self._helper.send("save", ticket, number, name, who):
            self._done(ticket, {"error": "the recorder does not answer", "code": "failed"})

    def _done(self, ticket: int, answer: dict[str, Any]) -> None:
        self._waiting.pop(ticket, None)
        self._answer(ticket, answer)

    def _begin_anew(self) -> None:
        """The recorder was started again: who waits for it waits in vain, and it knows nothing."""
        self._starts = self._helper.starts
        for ticket in list(self._waiting):
            self._done(ticket, {"error": "the recorder ended and was started again", "code": "failed"})
        self._telling = told(self._session.state, now())

    def gone(self, number: int) -> None:
        """An agent is watched no longer."""
        self._helper.send("gone", number)

    def turn(self) -> None:
        """Hear what the recorder has to say. One that was started again is told the state, a part a turn."""
        if self._helper.starts != self._starts:
            self._begin_anew()
        for batches in islice(self._telling, 1):
            self._helper.send("round", [(int(batch.kind), batch.data) for batch in batches])
        for message in self._helper.receive():
            match message:
                case ["said", text]:
                    self._say(text)
                case ["lost", number, records, reason]:
                    self._session.source.note(Type.LOSS, number, 0, records, reason)
                case ["saved", ticket, path, ""]:
                    self._done(ticket, {"result": {"path": path}})
                case ["saved", ticket, _, error]:
                    self._done(ticket, {"error": error, "code": "failed"})
