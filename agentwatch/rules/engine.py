"""The engine: events in, matches out. A pure fold over events, on event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentwatch.event import Event
from agentwatch.rules.correlate import Correlator, Finding, Group
from agentwatch.rules.explain import Detail, explain
from agentwatch.rules.expr import Expr
from agentwatch.rules.index import Plan
from agentwatch.rules.match import Facts, Test, compile_condition
from agentwatch.rules.model import Exemption, Rule, RuleSet


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
    """Evaluates a rule set. Holds the windows of its correlations and memories of verdicts.

    `clock_offset` is the wall clock's lead over event time in nanoseconds: exceptions end by it.
    Of a `predecessor`, the engine before a reload, it takes over the windows of correlations that
    are the same in both sets. `excepted` counts the matches that an exception covered. Raises
    ValueError for rules that cannot be evaluated; those of `load_rules` can.
    """

    def __init__(
        self,
        ruleset: RuleSet,
        *,
        clock_offset: int = 0,
        predecessor: Engine | None = None,
        plans: Mapping[str, Plan] | None = None,
    ) -> None:
        self.ruleset = ruleset
        self.excepted = 0
        self._clock_offset = clock_offset
        self._exemptions = _by_rule(ruleset.exemptions)
        self._rules = ruleset.rules
        self._plans = compile_plans(ruleset) if plans is None else plans
        old = {one.rule.id: one for one in predecessor._correlators} if predecessor else {}
        self._correlators: list[Correlator] = [
            _correlator(rule, old.get(rule.id)) for rule in self._rules if rule.correlation
        ]
        self._closing = [correlator for correlator in self._correlators if correlator.at_close]
        self._feeds: dict[str, list[Correlator]] = {}
        for correlator in self._correlators:
            assert correlator.rule.correlation
            for one in dict.fromkeys(correlator.rule.correlation.rules):
                self._feeds.setdefault(one, []).append(correlator)

    @property
    def categories(self) -> frozenset[str]:
        """The categories of events worth making: some rule looks at them."""
        return frozenset(self._plans)

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
        verdicts = plan.evaluate(event)
        if verdicts:
            event.fields = dict(event.fields)  # it may be kept: what it says is to stay
        for place, undecided in verdicts:
            self._tell(Match(self._rules[place], undecided, event, (event.seq,)), event.time, matches)
        return matches

    def _tell(self, match: Match, time: int, matches: list[Match]) -> None:
        if match.rule.id in self._exemptions and self._is_excepted(match):
            self.excepted += 1
            return
        if not match.rule.silent:
            matches.append(match)
        if match.rule.id in self._feeds:
            self._feed(match, time, matches)

    def _is_excepted(self, match: Match) -> bool:
        now = match.event.time + self._clock_offset
        facts = Facts(match.event)
        return any(now < expires and test(facts) for expires, test in self._exemptions[match.rule.id])

    def _feed(self, match: Match, time: int, matches: list[Match]) -> None:
        for correlator in self._feeds.get(match.rule.id, ()):
            for finding in correlator.add(match.rule.id, time, match.undecided, match.event, match.evidence):
                self._found(correlator, finding, time, matches)

    def _found(self, correlator: Correlator, finding: Finding, time: int, matches: list[Match]) -> None:
        match = Match(correlator.rule, finding.undecided, finding.event, finding.evidence, finding.group)
        self._tell(match, time, matches)


def compile_plans(ruleset: RuleSet) -> dict[str, Plan]:
    """What decides about the events of each category. Engines of the same set may share it."""
    rules: dict[str, list[tuple[int, Expr]]] = {}
    for place, rule in enumerate(ruleset.rules):
        for category, condition in rule.conditions.items():
            rules.setdefault(category, []).append((place, condition))
    return {category: Plan(of_category) for category, of_category in rules.items()}


def _correlator(rule: Rule, old: Correlator | None) -> Correlator:
    if old is None or old.rule.correlation != rule.correlation:
        return Correlator(rule)
    old.rule = rule
    return old


def _by_rule(exemptions: Sequence[Exemption]) -> dict[str, list[tuple[int, Test]]]:
    found: dict[str, list[tuple[int, Test]]] = {}
    for exemption in exemptions:
        test = compile_condition(exemption.condition, {})
        for rule in exemption.rules:
            found.setdefault(rule, []).append((exemption.expires, test))
    return found
