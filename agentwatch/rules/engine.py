"""The engine: events in, matches out. A pure fold over events, on event time."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentwatch.event import Event
from agentwatch.rules.correlate import Correlator, Finding, Group
from agentwatch.rules.explain import Detail, explain
from agentwatch.rules.index import Plan
from agentwatch.rules.model import Expr, Rule, RuleSet


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that holds for an event, or may hold (`undecided`: a value that decides was cut).

    `evidence` is sequence numbers of source records, ascending; for a correlation those of all
    matches counted (the latest `correlate.MAX_EVIDENCE`). `group` is its group-by values.
    """

    rule: Rule
    undecided: bool
    event: Event
    evidence: tuple[int, ...]
    group: Group = field(default=())

    @property
    def details(self) -> tuple[Detail, ...]:
        """Which selection matched which field; worked out when asked for."""
        condition = self.rule.conditions.get(self.event.category)
        return explain(condition, self.event) if condition else ()


class Engine:
    """Evaluates a rule set. Holds the windows of its correlations and memories of verdicts."""

    def __init__(self, ruleset: RuleSet) -> None:
        self.ruleset = ruleset
        self._rules = ruleset.rules
        rules: dict[str, list[tuple[int, Expr]]] = {}
        for place, rule in enumerate(self._rules):
            for category, condition in rule.conditions.items():
                rules.setdefault(category, []).append((place, condition))
        self._plans = {category: Plan(of_category) for category, of_category in rules.items()}
        correlators = [Correlator(rule) for rule in self._rules if rule.correlation]
        self._closing = [correlator for correlator in correlators if correlator.at_close]
        self._correlators = correlators
        self._feeds: dict[str, list[Correlator]] = {}
        for correlator in correlators:
            assert correlator.rule.correlation
            for one in dict.fromkeys(correlator.rule.correlation.rules):
                self._feeds.setdefault(one, []).append(correlator)

    @property
    def evicted(self) -> dict[str, int]:
        """Rule id -> groups and entries that its correlation let go to stay within its bounds."""
        return {one.rule.id: one.evicted for one in self._correlators if one.evicted}

    def evaluate(self, event: Event) -> list[Match]:
        """Matches of the event, then of the correlations that it completes, in a fixed order."""
        matches: list[Match] = []
        for correlator in self._closing:
            for finding in correlator.close(event.time):
                self._found(correlator, finding, event.time, matches)
        plan = self._plans.get(event.category)
        if plan is None:
            return matches
        for place, undecided in plan.evaluate(event):
            rule = self._rules[place]
            match = Match(rule, undecided, event, (event.seq,))
            if not rule.silent:
                matches.append(match)
            if rule.id in self._feeds:
                self._feed(match, event.time, matches)
        return matches

    def _feed(self, match: Match, time: int, matches: list[Match]) -> None:
        for correlator in self._feeds.get(match.rule.id, ()):
            for finding in correlator.add(match.rule.id, time, match.undecided, match.event, match.evidence):
                self._found(correlator, finding, time, matches)

    def _found(self, correlator: Correlator, finding: Finding, time: int, matches: list[Match]) -> None:
        rule = correlator.rule
        match = Match(rule, finding.undecided, finding.event, finding.evidence, finding.group)
        if not rule.silent:
            matches.append(match)
        self._feed(match, time, matches)
