"""The core's end of the recorder: rounds go out, and never wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

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

_LOSS_NS: Final = 1_000_000_000  # between two records of what is lost while the recorder takes nothing
_UNKEPT: Final = 1 << 16  # rounds of which it is remembered that the recorder may not have written them


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
        self._missed = 0  # and not told yet
        self._lost = 0
        self._next_loss = 0
        self._given = 0  # rounds, to the recorder that runs
        self._unkept: deque[tuple[int, int]] = deque(maxlen=_UNKEPT)
        self._starts = helper.starts
        self._waiting: dict[int, None] = {}
        self._telling: Iterator[Round] = iter(())

    @property
    def lost_records(self) -> int:
        """What a recording lacks. The flight recorder's gaps are told in its incidents alone."""
        return self._lost if self._is_continuous else 0

    def append(self, batches: Round) -> None:
        """A round, before it is folded."""
        if self._helper.starts != self._starts:
            self._begin_anew()
        is_taken = self._give_missed() and self._give("round", _plain(batches))
        if not is_taken:
            self._missed += self._summarise((batches,)).records
        if self._is_continuous and self._missed and (is_taken or now() >= self._next_loss):
            # The session makes a record of it. One of each round would never end: it is missed, too.
            self._next_loss = now() + _LOSS_NS
            self._lost += self._missed
            self._missed = 0

    def _give_missed(self) -> bool:
        """Tell the flight recorder of the gap before what comes next; False while it takes nothing."""
        if self._is_continuous or not self._missed:
            return True
        if self._give("missed", self._missed):
            self._missed = 0
        return not self._missed

    def _give(self, what: str, content: Any) -> bool:
        """Send what becomes a round of the recording, and remember where in the watch it stands."""
        if not self._helper.send(what, content):
            return False
        if self._is_continuous:
            self._unkept.append((self._given, self._handed()))
            self._given += 1
        return True

    def _handed(self) -> int:
        """Records that the recorder was given by now, and was not known to lack."""
        return self._session.pipeline.counters.records - self._lost - self._missed

    def _note_kept(self, rounds: int) -> None:
        """So many rounds are in the trace by now."""
        while self._unkept and self._unkept[0][0] < rounds:
            self._unkept.popleft()

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
        """The recorder was started again: who waits for it waits in vain, it knows nothing, and what the
        one before had not written is lost."""
        self._starts = self._helper.starts
        if self._unkept:
            _, before = self._unkept[0]
            self._lost += self._handed() - before
        self._unkept.clear()
        self._given = 0
        for ticket in list(self._waiting):
            self._done(ticket, {"error": "the recorder ended and was started again", "code": "failed"})
        self._telling = told(self._session.state, now())
        self._tell()  # what was lost before, so that it is not told again of what comes next

    def _tell(self) -> None:
        """Tell one that was started again a part of the state."""
        for batches in islice(self._telling, 1):
            self._give("round", _plain(batches))

    def gone(self, number: int) -> None:
        """An agent is watched no longer."""
        self._helper.send("gone", number)

    def turn(self) -> None:
        """Hear what the recorder has to say. One that was started again is told the state, a part a turn."""
        if self._helper.starts != self._starts:
            self._begin_anew()
        self._tell()
        for message in self._helper.receive():
            match message:
                case ["said", text]:
                    self._say(text)
                case ["kept", rounds]:
                    self._note_kept(rounds)
                case ["lost", number, records, reason]:
                    self._session.source.note(Type.LOSS, number, 0, records, reason)
                case ["saved", ticket, path, ""]:
                    self._done(ticket, {"result": {"path": path}})
                case ["saved", ticket, _, error]:
                    self._done(ticket, {"error": error, "code": "failed"})


def _plain(batches: Round) -> list[tuple[int, bytes]]:
    """A round as it travels."""
    return [(int(batch.kind), batch.data) for batch in batches]
