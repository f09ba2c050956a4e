"""Sigma correlations over matches, on event time, in bounded memory.

Counting is parted by agent, always, and by the values of `group-by`: what one agent does is never
held against another. Conditions that more events can only make truer (`gt`, `gte` on counts and
sums, all rules of a temporal correlation seen) hold at once, over a sliding window, which is
emptied when they do. All others (`value_avg`, `lt`, `lte`, `eq`, `neq`, a `not`) are decided when
their window closes: it opens with a group's first match and lasts for the timespan.

Bounds: at most `MAX_GROUPS` groups and `MAX_ENTRIES_ALL` entries a correlation, the group left
untouched longest goes first (the one opened first, where windows close); at most `MAX_ENTRIES`
entries a window, the oldest goes first. What goes is counted in `evicted`.
"""

from __future__ import annotations

import hashlib
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentwatch.event import Event
from agentwatch.rules.expr import Expr
from agentwatch.rules.match import encode, number, texts
from agentwatch.rules.model import MAX_ENTRIES, Correlation, Rule

MAX_GROUPS = 4096
MAX_ENTRIES_ALL = 16384
MAX_EVIDENCE = 256
MAX_TEXT = 256

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
    seq: int
    evidence: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A correlation that holds for a group; `undecided` if only with undecided matches.

    `event` is the last one counted.
    """

    undecided: bool
    event: Event
    evidence: tuple[int, ...]
    group: Group


class Tally(Protocol):
    """What a window holds of its entries."""

    def add(self, entry: Entry) -> int:
        """Takes an entry; returns how many others it let go for want of room."""

    def slide(self, since: int) -> None:
        """Forgets entries up to this time."""

    def holds(self, undecided: bool) -> bool:
        """Whether the condition holds for the entries, the undecided ones counted or not."""

    def evidence(self, undecided: bool) -> tuple[int, ...]:
        """What the entries rest on, the undecided ones counted or not."""

    def __len__(self) -> int:
        """Entries held."""


@dataclass(slots=True)
class Window:
    """One group's window. `told`: the undecided finding has been given already."""

    tally: Tally
    opened: int
    event: Event
    told: bool = False


class Correlator:
    """The state of one correlation rule."""

    def __init__(self, rule: Rule) -> None:
        assert rule.correlation is not None
        self.rule = rule
        self.evicted = 0
        self._spec = rule.correlation
        self._new_tally = _tally(rule.correlation)
        self.at_close = _at_close(rule.correlation)
        self._windows: OrderedDict[tuple[str, Group], Window] = OrderedDict()
        self._held = 0

    def add(
        self, rule: str, time: int, undecided: bool, event: Event, evidence: tuple[int, ...]
    ) -> list[Finding]:
        """Counts a match of one of the correlation's rules. Times in nanoseconds of event time."""
        group, value = self._group(rule, event), self._value(rule, event)
        if value is None:
            return []
        window = self._window((event.agent, group), time, event)
        window.event = event
        before = len(window.tally)
        self.evicted += window.tally.add(Entry(time, rule, value, undecided, event.seq, evidence))
        finding = None
        if not self.at_close:
            window.tally.slide(time - self._spec.timespan)
            if len(window.tally) == 1:
                window.told = False
            finding = self._decide(window, group)
        self._held += len(window.tally) - before
        self._make_room()
        return [finding] if finding else []

    def close(self, time: int) -> list[Finding]:
        """Decides the windows that have closed by `time`."""
        findings = []
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.opened + self._spec.timespan > time:
                break
            self._drop(key)
            finding = self._decide(window, key[1])
            if finding:
                findings.append(finding)
        return findings

    def _window(self, key: tuple[str, Group], time: int, event: Event) -> Window:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = Window(self._new_tally(), time, event)
        elif not self.at_close:
            self._windows.move_to_end(key)
        return window

    def _make_room(self) -> None:
        while len(self._windows) > MAX_GROUPS or self._held > MAX_ENTRIES_ALL:
            self._drop(next(iter(self._windows)))
            self.evicted += 1

    def _drop(self, key: tuple[str, Group]) -> None:
        self._held -= len(self._windows.pop(key).tally)

    def _decide(self, window: Window, group: Group) -> Finding | None:
        certain, possible = window.tally.holds(undecided=False), window.tally.holds(undecided=True)
        # Undecided matches can only add to what rises; they may as well undo what is decided late.
        undecided = certain != possible if self.at_close else not certain
        if not (certain or possible) or (undecided and window.told):
            return None
        evidence = sorted(set(window.tally.evidence(undecided)))[-MAX_EVIDENCE:]
        window.told = undecided
        if not undecided:
            window.tally = self._new_tally()
        return Finding(undecided, window.event, tuple(evidence), group)

    def _group(self, rule: str, event: Event) -> Group:
        return tuple(
            (name, tuple(map(_bounded, texts(event.fields.get(self._field(rule, name))))))
            for name in self._spec.group_by
        )

    def _value(self, rule: str, event: Event) -> str | None:
        """The value counted, "" if none is; None if the event has no such value."""
        if not self._spec.fields:
            return ""
        parts = [texts(event.fields.get(self._field(rule, name))) for name in self._spec.fields]
        return _bounded("\0".join("\0".join(part) for part in parts)) if all(parts) else None

    def _field(self, rule: str, name: str) -> str:
        return self._spec.aliases.get(name, {}).get(rule, name)


def _bounded(text: str) -> str:
    """A text short enough to keep; a long one is told apart from others by its digest."""
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT // 2]}…{hashlib.sha256(encode(text)).hexdigest()}"


def _at_close(spec: Correlation) -> bool:
    if spec.expr is not None:
        return _has_not(spec.expr)
    if spec.type in ("temporal", "temporal_ordered"):
        return False
    return spec.type not in _RISING or spec.op not in ("gt", "gte")


def _has_not(expr: Expr) -> bool:
    return expr[0] == "not" or (expr[0] != "rule" and any(map(_has_not, expr[1:])))


def _tally(spec: Correlation) -> Callable[[], Tally]:
    if spec.type == "temporal_ordered":
        return lambda: InOrder(spec)
    return lambda: Counted(spec)


class Counted:
    """Entries that are measured: all of them, or the latest of each rule or each value."""

    def __init__(self, spec: Correlation) -> None:
        self._spec = spec
        self._entries: OrderedDict[object, Entry] = OrderedDict()
        self._added = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> int:
        """Takes an entry; see `Tally`."""
        self._added += 1
        distinct = {"value_count": entry.value, "temporal": entry.rule}.get(self._spec.type)
        key = self._added if distinct is None else (distinct, entry.undecided)
        self._entries.pop(key, None)
        self._entries[key] = entry
        if len(self._entries) <= MAX_ENTRIES:
            return 0
        self._entries.popitem(last=False)
        return 1

    def slide(self, since: int) -> None:
        """Forgets entries up to this time; see `Tally`."""
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if oldest.time > since:
                break
            del self._entries[key]

    def holds(self, undecided: bool) -> bool:
        """Whether the condition holds; see `Tally`."""
        entries = self._counted(undecided)
        return bool(entries) and self._true(entries)

    def evidence(self, undecided: bool) -> tuple[int, ...]:
        """What the entries rest on; see `Tally`."""
        return tuple(seq for entry in self._counted(undecided) for seq in entry.evidence)

    def _counted(self, undecided: bool) -> list[Entry]:
        return [entry for entry in self._entries.values() if undecided or not entry.undecided]

    def _true(self, entries: Sequence[Entry]) -> bool:
        spec = self._spec
        if spec.expr is not None:
            return _true(spec.expr, {entry.rule for entry in entries})
        return _OPERATORS[spec.op](_MEASURES[spec.type](entries), spec.count)


class InOrder:
    """How far the rules have matched in their order: for each length of the beginning, the latest.

    A step is (time of the first match, seq of the last one, evidence).
    """

    def __init__(self, spec: Correlation) -> None:
        self._rules = spec.rules
        self._timespan = spec.timespan
        self._steps: dict[bool, list[tuple[int, int, tuple[int, ...]] | None]] = {
            undecided: [None] * len(spec.rules) for undecided in (False, True)
        }

    def __len__(self) -> int:
        return sum(step is not None for steps in self._steps.values() for step in steps)

    def add(self, entry: Entry) -> int:
        """Takes an entry; see `Tally`."""
        for undecided, steps in self._steps.items():
            if entry.undecided and not undecided:
                continue
            for place in range(len(steps) - 1, -1, -1):
                if self._rules[place] != entry.rule:
                    continue
                if place == 0:
                    steps[0] = (entry.time, entry.seq, entry.evidence)
                    continue
                before = steps[place - 1]
                if before and before[1] != entry.seq and entry.time - before[0] < self._timespan:
                    steps[place] = (before[0], entry.seq, before[2] + entry.evidence)
        return 0

    def slide(self, since: int) -> None:
        """Forgets beginnings up to this time; see `Tally`."""
        for steps in self._steps.values():
            steps[:] = [step if step and step[0] > since else None for step in steps]

    def holds(self, undecided: bool) -> bool:
        """Whether all rules have matched in order; see `Tally`."""
        return self._steps[undecided][-1] is not None

    def evidence(self, undecided: bool) -> tuple[int, ...]:
        """What the last step rests on; see `Tally`."""
        last = self._steps[undecided][-1]
        return last[2] if last else ()


def _true(expr: Expr, seen: set[str]) -> bool:
    kind = expr[0]
    if kind == "rule":
        return expr[1] in seen
    if kind == "not":
        return not _true(expr[1], seen)
    operands = [_true(operand, seen) for operand in expr[1:]]
    return all(operands) if kind == "and" else any(operands)


def _sum(entries: Sequence[Entry]) -> float:
    return sum(_numbers(entries))


def _average(entries: Sequence[Entry]) -> float:
    numbers = _numbers(entries)
    return sum(numbers) / len(numbers) if numbers else 0.0


def _numbers(entries: Iterable[Entry]) -> list[float]:
    found = (number(entry.value) for entry in entries)
    return [value for value in found if value is not None]


_MEASURES: Mapping[str, Callable[[Sequence[Entry]], float]] = {
    "event_count": len,
    "value_count": lambda entries: len({entry.value for entry in entries}),
    "value_sum": _sum,
    "value_avg": _average,
    "temporal": lambda entries: len({entry.rule for entry in entries}),
}
