"""Reading a recording into tables: of its records no more is made than the tables tell."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from agentwatch.detect.chain import Chain
from agentwatch.detect.request import NoRequests
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.forensics.account import Account
from agentwatch.forensics.story import PLAIN
from agentwatch.forensics.tables import OF_FLOWS, Depth, Tables, WriteRows
from agentwatch.pipeline import Counters
from agentwatch.replay import Order, Outcome, Recording, Replay
from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, BODIES, BODY, START, TGID, TIME, TYPE, DecodeError, Row
from agentwatch.schema.events import EVENTS, Ring, Type
from agentwatch.schema.fields import FIELDS
from agentwatch.sources.base import Round
from agentwatch.trace.format import TraceHeader

_UDP = bytes((17,))
_NOTES = frozenset(int(event.number) for event in EVENTS if event.ring is Ring.NOTES)
_LINEAGE = frozenset(map(int, (Type.FORK, Type.EXIT, Type.EXEC, Type.EXEC_PIECE)))
_SIZES = {number: fixed.size for number, fixed in BODIES.items()}
_PROTOCOL = slice(46, 47)  # where it lies in a socket block
_NONE: list[Sighting] = []
_Find = Callable[[Change], list[Sighting]]
_FINDINGS = frozenset(FIELDS) - PLAIN


class Reading(Account):
    """Reads one recording into rows of the tables named, to the depth given."""

    def __init__(self, recording: Recording, write: WriteRows, wanted: Mapping[str, Depth]) -> None:
        super().__init__(recording)
        self._wanted = wanted
        self._depth = max(wanted.values(), default=Depth.RECORDS)
        self._tables = Tables(write, wanted, self)
        self._change: Change | None = None
        self._events: list[Sighting] = []
        self._found = self.categories = self._categories()

    def run(self) -> Outcome:
        """What is damaged is in the outcome's remarks, and the rest is told."""
        judged = self._depth >= Depth.JUDGED
        self.outcome = Replay(
            self.recording,
            Order(),
            lambda line: None,
            lambda done: None,
            observer=self if judged else None,
            folding=None if judged else self._folding,
        ).run()
        self._flush()
        self._tables.close()
        return self.outcome

    def _categories(self) -> frozenset[str]:
        """Of events that the tables tell, and names come from those of DNS."""
        if "events" in self._wanted:
            return frozenset(FIELDS)
        flows = self._wanted.get("flows", Depth.RECORDS)
        names = {"dns_query"} if flows >= Depth.RECOGNISED or "dns" in self._wanted else set()
        return _FINDINGS.union(names) if flows >= Depth.EVENTS else frozenset(names)

    def _folding(self, header: TraceHeader) -> _Unjudged:
        folding = (
            _Unjudged(self, header, self._tables, self._found)
            if self._depth >= Depth.RECOGNISED
            else _Skipping(self, header, self._tables, self._found, self._wanted.keys())
        )
        self.header, self.state = header, folding.state
        return folding

    # --- the observer of a replay with rules ---

    def ready(self) -> None:
        self._flush()

    def record(self, change: Change) -> None:
        self.spans(change.time, change.time)
        self._change, self._events = change, []

    def event(self, event: Sighting) -> None:
        self._events.append(event)

    def alert(self, alert: dict[str, Any]) -> None:
        self._tables.alert(alert)

    def _flush(self) -> None:
        """A record and its events are complete."""
        change, self._change = self._change, None
        if change is not None:
            self._tables.moment(change, self._events)


class _Unjudged:
    """What the pipeline does before its rules: `tables` get each record with its events."""

    def __init__(self, account: Account, header: TraceHeader, tables: Tables, found: frozenset[str]) -> None:
        self.counters = Counters()
        self.state = State(header.users, header.training)
        self._chain = Chain(self.state, found, NoRequests())
        self._account, self._tables = account, tables

    def finish(self) -> None:
        """Nothing waits for what never comes."""

    def process(self, batches: Round) -> None:
        counters, finder, apply, tell = self.counters, self._finder, self.state.apply, self._tables.moment
        rows = decode.rows_of(batches, self._unreadable)
        if rows:
            self._account.spans(rows[0][TIME], rows[-1][TIME])
        for seq, row in enumerate(rows, counters.records + 1):
            counters.records = seq
            find = finder(row)
            if find is None:
                continue
            change, events = None, _NONE
            try:
                change = apply(seq, row)
                if change is not None:
                    events = find(change)
            except DecodeError:
                self._unreadable()
            if change is not None:
                tell(change, events)

    def _finder(self, row: Row) -> _Find | None:
        """What finds the events of a record; None where it is skipped."""
        return self._chain.of

    def _unreadable(self) -> None:
        self.counters.unreadable += 1
        self.state.count_unreadable()


class _Skipping(_Unjudged):
    """Folds those records that the tables tell of, and skips the rest.

    Of processes that is what begins and ends them, and each one's first record; of names it is datagrams.
    """

    def __init__(
        self,
        account: Account,
        header: TraceHeader,
        tables: Tables,
        found: frozenset[str],
        wanted: Collection[str],
    ) -> None:
        super().__init__(account, header, tables, found)
        lineage = () if wanted == {"traces"} else _LINEAGE
        self._always = _NOTES.union(lineage, OF_FLOWS if "flows" in wanted else ())
        self._datagrams = OF_FLOWS if "dns" in wanted else frozenset[int]()
        self._seen = "processes" in wanted

    def _finder(self, row: Row) -> _Find | None:
        number = row[TYPE]
        if number in self._datagrams and row[BODY][_PROTOCOL] == _UDP:
            return self._chain.of
        return _nothing if number in self._always or not self._skips(row) else None

    def _skips(self, row: Row) -> bool:
        """Whether a record says nothing: not even that it cannot be read, or that there is a process."""
        if len(row[BODY]) < _SIZES.get(row[TYPE], 0):
            return False
        if not self._seen or not row[TGID]:
            return True
        life = self._tables.lives.get((row[TGID], row[START]))
        return life is not None and life.agent is self.state.agents.get(row[AGENT])


def _nothing(change: Change) -> list[Sighting]:
    return _NONE
