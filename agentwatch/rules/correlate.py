"""Sigma correlations over matches, on event time, in bounded memory.

Counting is parted by agent, always, and by the values of `group-by`: what one agent does is never
held against another. Conditions that more events can only make truer (`gt`, `gte` on counts and
sums, all rules of a temporal correlation seen) hold at once, over a sliding window, which is
emptied when they do. All others (`value_avg`, `lt`, `lte`, `eq`, `neq`, a `not`) are decided when
their window closes: it opens with a group's first match and lasts for the timespan.

Bounds: at most `MAX_GROUPS` groups a correlation, the one left untouched longest goes first;
at most `MAX_ENTRIES` entries a window, the oldest goes first. What goes is counted in `evicted`.
"""

from __future__ import annotations

import operator
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from agentwatch.event import Event
from agentwatch.rules.match import number, texts
from agentwatch.rules.model import Correlation, Expr, Rule

MAX_GROUPS = 4096
MAX_ENTRIES = 1024
MAX_EVIDENCE = 256

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "eq": operator.eq,
    "neq": operator.ne,
}
_RISING = frozenset({"event_count", "value_count", "value_sum"})

Group = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One match counted: when, by which rule, with which value, with what evidence."""

    time: int
    rule: str
    value: str
    undecided: bool
    event: Event
    evidence: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A correlation that holds for a group; `undecided` if only with undecided matches."""

    undecided: bool
    event: Event
    evidence: tuple[int, ...]
    group: Group


@dataclass(slots=True)
class Window:
    """The entries of one group. `told`: the undecided finding has been given already."""

    entries: deque[Entry] = field(default_factory=deque)
    opened: int = 0
    told: bool = False


class Correlator:
    """The state of one correlation rule."""

    def __init__(self, rule: Rule) -> None:
        assert rule.correlation is not None
        self.rule = rule
        self.evicted = 0
        self._spec = rule.correlation
        self._holds = _condition(rule.correlation)
        self.at_close = _at_close(rule.correlation)
        self._windows: OrderedDict[tuple[str, Group], Window] = OrderedDict()

    def add(
        self, rule: str, time: int, undecided: bool, event: Event, evidence: tuple[int, ...]
    ) -> list[Finding]:
        """Counts a match of one of the correlation's rules. Times in nanoseconds of event time."""
        group = self._group(rule, event)
        values = self._values(rule, event)
        if values is None:
            return []
        window = self._window((event.agent, group), time)
        window.entries.append(Entry(time, rule, values, undecided, event, evidence))
        if len(window.entries) > MAX_ENTRIES:
            window.entries.popleft()
            self.evicted += 1
        if self.at_close:
            return []
        self._slide(window, time)
        finding = self._decide(window, group)
        return [finding] if finding else []

    def close(self, time: int) -> list[Finding]:
        """Decides the windows that have closed by `time`."""
        findings = []
        while self._windows:
            (key, window) = next(iter(self._windows.items()))
            if window.opened + self._spec.timespan > time:
                break
            del self._windows[key]
            finding = self._decide(window, key[1])
            if finding:
                findings.append(finding)
        return findings

    def _window(self, key: tuple[str, Group], time: int) -> Window:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window(opened=time)
            if len(self._windows) > MAX_GROUPS:
                self._windows.popitem(last=False)
                self.evicted += 1
        elif not self.at_close:
            self._windows.move_to_end(key)
        return window

    def _slide(self, window: Window, now: int) -> None:
        entries = window.entries
        while entries and entries[0].time <= now - self._spec.timespan:
            entries.popleft()
        if len(entries) == 1:
            window.told = False

    def _decide(self, window: Window, group: Group) -> Finding | None:
        sure = [entry for entry in window.entries if not entry.undecided]
        certain = self._holds(sure)
        possible = certain if len(sure) == len(window.entries) else self._holds(list(window.entries))
        undecided = not certain if not self.at_close else certain != possible
        if not (certain or possible) or (undecided and window.told):
            return None
        counted = list(window.entries) if undecided else sure
        last = window.entries[-1]
        evidence = sorted({seq for entry in counted for seq in entry.evidence})[-MAX_EVIDENCE:]
        if undecided:
            window.told = True
        else:
            window.entries.clear()
            window.told = False
        return Finding(undecided, last.event, tuple(evidence), group)

    def _group(self, rule: str, event: Event) -> Group:
        return tuple((name, texts(event.fields.get(self._field(rule, name)))) for name in self._spec.group_by)

    def _values(self, rule: str, event: Event) -> str | None:
        """The value counted, "" if none is; None if the event has no such value."""
        if not self._spec.fields:
            return ""
        parts = [texts(event.fields.get(self._field(rule, name))) for name in self._spec.fields]
        return "\0".join("\0".join(part) for part in parts) if all(parts) else None

    def _field(self, rule: str, name: str) -> str:
        return self._spec.aliases.get(name, {}).get(rule, name)


Holds = Callable[[list[Entry]], bool]


def _at_close(spec: Correlation) -> bool:
    if spec.expr is not None:
        return _has_not(spec.expr)
    if spec.type in ("temporal", "temporal_ordered"):
        return False
    return spec.type not in _RISING or spec.op not in ("gt", "gte")


def _has_not(expr: Expr) -> bool:
    return expr[0] == "not" or (expr[0] != "rule" and any(map(_has_not, expr[1:])))


def _condition(spec: Correlation) -> Holds:
    compare, count = _OPERATORS[spec.op], spec.count
    if spec.expr is not None:
        expr = spec.expr
        return lambda entries: bool(entries) and _true(expr, {entry.rule for entry in entries})
    if spec.type == "temporal_ordered":
        return lambda entries: _in_order(entries, spec.rules)
    measure = _MEASURES[spec.type]

    def holds(entries: list[Entry]) -> bool:
        return bool(entries) and compare(measure(entries), count)

    return holds


def _true(expr: Expr, seen: set[str]) -> bool:
    kind = expr[0]
    if kind == "rule":
        return expr[1] in seen
    if kind == "not":
        return not _true(expr[1], seen)
    operands = [_true(operand, seen) for operand in expr[1:]]
    return all(operands) if kind == "and" else any(operands)


def _in_order(entries: list[Entry], rules: tuple[str, ...]) -> bool:
    """Whether the rules matched one after the other, each on a later event than the one before."""
    step, last = 0, -1
    for entry in entries:
        if step < len(rules) and entry.rule == rules[step] and entry.event.seq != last:
            step, last = step + 1, entry.event.seq
    return step == len(rules)


def _sum(entries: list[Entry]) -> float:
    return sum(_numbers(entries))


def _average(entries: list[Entry]) -> float:
    numbers = list(_numbers(entries))
    return sum(numbers) / len(numbers) if numbers else 0.0


def _numbers(entries: list[Entry]) -> Iterator[float]:
    for entry in entries:
        found = number(entry.value)
        if found is not None:
            yield found


_MEASURES: Mapping[str, Callable[[list[Entry]], float]] = {
    "event_count": len,
    "value_count": lambda entries: len({entry.value for entry in entries}),
    "value_sum": _sum,
    "value_avg": _average,
    "temporal": lambda entries: len({entry.rule for entry in entries}),
}
