"""The one pipeline: decode, enrich, detect, match, respond, sinks. Live, replay and tests share it.

Rounds of records go in; what comes out depends on them, on the rules and on nothing else. A
decision that acts is carried out at once, and the act comes back as a record of the next round:
alerts wait for it there, so that they say the same live and in a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from agentwatch.detect.chain import Chain
from agentwatch.detect.request import NoRequests, Requests
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Agent, Change, State
from agentwatch.respond.actuate import Actuator, ReportingActuator
from agentwatch.respond.decide import RESPONSES, Decider, Decision
from agentwatch.respond.outcome import Outcome
from agentwatch.rules.engine import Engine, Match
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.model import Rule, RuleSet
from agentwatch.rules.selection import left_out
from agentwatch.schema import decode
from agentwatch.schema.decode import TIME, DecodeError
from agentwatch.schema.events import Type
from agentwatch.sinks import alerts
from agentwatch.sources.base import Round

_ACTION = int(Type.ACTION)
_RULES = int(Type.RULES)
_ALL_RULES: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
_SELECTIONS_KEPT = 256  # policies whose rules are remembered

Sink = Callable[[dict[str, Any]], None]
Tap = Callable[[Sighting], None]


class Onlooker(Protocol):
    """Is told of every record."""

    def ready(self) -> None:
        """A record comes."""

    def record(self, change: Change) -> None:
        """What it says; nothing comes of one that says nothing on its own."""


@dataclass(slots=True)
class Counters:
    """What went through. `unreadable` records were passed over; the alerts' completeness says so too.

    `newest` is the time of the last record of the last round, in ns since boot.
    """

    records: int = 0
    events: int = 0
    alerts: int = 0
    unreadable: int = 0
    newest: int = 0


@dataclass(slots=True)
class _Pending:
    decision: Decision
    round: int


class Pipeline:
    """Folds rounds into alerts. `requests` is asked what detectors want to know.

    Records say when other rules came into force; with `reloads` false those of `engine` stay. In an
    `excerpt` records were left out: an act belongs to the decision of its rule and agent that waits.
    `tap` sees events of the categories that rules look at, and of `categories`; `onlooker` all records.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        state: State | None = None,
        actuator: Actuator | None = None,
        sinks: Iterable[Sink] = (),
        requests: Requests | None = None,
        clock_offset: int = 0,
        reloads: bool = True,
        excerpt: bool = False,
        categories: Collection[str] = (),
        onlooker: Onlooker | None = None,
    ) -> None:
        self.state = state or State()
        self.counters = Counters()
        self.tap: Tap | None = None  # sees every event that rules see, once what acts has acted
        self._engine = engine
        self._categories = frozenset(categories)
        wanted = self._categories.union(engine.ruleset.categories)
        self._chain = Chain(self.state, wanted, requests or NoRequests())
        self._decider = Decider()
        self._left_out: dict[tuple[tuple[str, ...], ...], frozenset[str]] = {}
        self._actuator = actuator or ReportingActuator()
        self._sinks = tuple(sinks)
        self._clock_offset = clock_offset
        self._reloads = reloads
        self._excerpt = excerpt
        self._onlooker = onlooker
        self._pending: dict[tuple[int, str], _Pending] = {}
        self._round = 0

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._engine.ruleset

    @property
    def excepted(self) -> int:
        """Matches that an operator's exception covered."""
        return self._engine.excepted

    def process(self, batches: Round) -> None:
        """Fold one round."""
        self._round += 1
        counters, apply, events_of, onlooker = self.counters, self.state.apply, self._chain.of, self._onlooker
        rows = decode.rows_of(batches, self._unreadable)
        if rows:
            counters.newest = rows[-1][TIME]
        for seq, row in enumerate(rows, counters.records + 1):
            counters.records = seq
            if onlooker is not None:
                onlooker.ready()
            try:
                change = apply(seq, row)
                if change is None:
                    continue
                if onlooker is not None:
                    onlooker.record(change)
                sightings = events_of(change)
                if change.type == _RULES and self._reloads:
                    self._reload(change)
            except DecodeError:
                self._unreadable()
                continue
            if change.type == _ACTION:
                self._settle(change)
            for sighting in sightings:
                self._match(sighting)
        self._settle_rest()

    def finish(self) -> None:
        """No round follows: what waits for an act gets none."""
        self._round += 2
        self._settle_rest()

    def _unreadable(self) -> None:
        self.counters.unreadable += 1
        self.state.count_unreadable()

    def _match(self, sighting: Sighting) -> None:
        self.counters.events += 1
        undecided: list[Match] = []
        decisions: list[Decision] = []
        for match in self._engine.evaluate(sighting):
            # A correlation may end with an event of another process: the alert is about that one.
            about = match.event
            assert isinstance(about, Sighting)
            if self._is_left_out(match.rule, about.subject):
                continue
            if not self._decider.is_new(match.rule, match.undecided, about.process, about.flow):
                continue
            if match.undecided and match.rule.correlation is None:
                undecided.append(match)
            else:
                decisions.append(_decision(match, about, (match.rule.id,) if match.undecided else ()))
        if undecided:
            # One value that was cut leaves many rules undecided: one alert names them all.
            foremost = max(undecided, key=lambda match: LEVELS.index(match.rule.level))
            decisions.append(_decision(foremost, sighting, tuple(match.rule.id for match in undecided)))
        # The strongest first: of two rules over one record, a pause does not keep the other from killing.
        decisions.sort(key=_strength, reverse=True)
        for decision in decisions:
            if decision.acts:
                self._actuator.act(decision)
                self._pending[decision.seq, decision.rule.id] = _Pending(decision, self._round)
        # The act comes before all that can wait; who looks on hears of an event before its alerts.
        if self.tap is not None:
            self.tap(sighting)
        for decision in decisions:
            if not decision.acts:
                self._alert(decision, None)

    def _is_left_out(self, rule: Rule, agent: Agent) -> bool:
        """Whether the agent's policy has this rule say nothing of it."""
        policy = agent.only, agent.without
        if policy == _ALL_RULES:
            return False
        found = self._left_out.get(policy)
        if found is None:
            if len(self._left_out) >= _SELECTIONS_KEPT:
                self._left_out.clear()
            found = self._left_out[policy] = left_out(*policy, self.rules)
        return rule.id in found

    def _reload(self, change: Change) -> None:
        """From this record on, other rules are in force. Without content it names those in force."""
        _, content = change.fields
        if not content:
            return
        try:
            rules = RuleSet.from_bytes(content)
            self._engine = Engine(rules, clock_offset=self._clock_offset, predecessor=self._engine)
        except ValueError as error:
            raise DecodeError(f"rules cannot be read: {error}") from None
        self._chain.want(self._categories.union(rules.categories))
        self._left_out.clear()

    def _settle(self, change: Change) -> None:
        """The record of an act has come: its alert is complete."""
        seq, rule, response, result, error, acted, settled = change.fields
        key = self._waiting_for(rule, change) if self._excerpt else (seq, rule)
        pending = self._pending.pop(key, None)
        if pending is not None:
            self._alert(pending.decision, Outcome(response, result, error, acted, settled))

    def _waiting_for(self, rule: str, change: Change) -> tuple[int, str]:
        """The key of the oldest decision of this rule over this agent that waits."""
        waiting = (key for key, one in self._pending.items() if one.decision.agent is change.agent)
        return next((key for key in waiting if key[1] == rule), (0, rule))

    def _settle_rest(self) -> None:
        """Acts come back in the round after the decision: for what is older, nothing was done."""
        for key in [key for key, pending in self._pending.items() if pending.round < self._round]:
            self._alert(self._pending.pop(key).decision, None)

    def _alert(self, decision: Decision, outcome: Outcome | None) -> None:
        self.counters.alerts += 1
        alert = alerts.build(self.state, decision, outcome, self._clock_offset)
        for sink in self._sinks:
            sink(alert)


def _decision(match: Match, about: Sighting, undecided: tuple[str, ...]) -> Decision:
    response = "alert" if match.undecided else match.rule.response
    return Decision(match.rule, match.undecided, match.evidence, about, response, undecided)


def _strength(decision: Decision) -> int:
    return RESPONSES.index(decision.response)
