"""What a screen is made of: columns, rows, lines. Plain data; what draws them makes texts harmless."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, NamedTuple

from agentwatch.tui.text import byte_count

HISTORY: Final = 60  # samples of an agent's activity kept
_BARS: Final = "▁▂▃▄▅▆▇█"

# Colours that can be read on dark and on light, and only where something asks for attention.
WARNING: Final = "bold magenta"
STATE_STYLES: Final = {"paused": "black on yellow", "blocked": "black on yellow", "killed": "white on red"}
LEVEL_STYLES: Final = {
    "critical": "white on red",
    "high": "bold red",
    "medium": WARNING,
}
STATE_WORDS: Final = {"paused": "FROZEN", "blocked": "BLOCKED", "killed": "KILLED", "running": "running"}

Span = tuple[str, str]
"""A text and its style, as rich writes styles."""
Line = tuple[Span, ...]
Answers = Mapping[str, Any]
"""What was asked for, by verb."""


class Column(NamedTuple):
    """A column: `width` cells at least, `grow` its share of what is left; where there is no room, those
    of the highest `rank` go first. `right`: numbers."""

    title: str
    width: int
    grow: int = 0
    rank: int = 0
    right: bool = False


class Row(NamedTuple):
    """A row: `key` says what it is about, whatever its place; `agent` is the one that keys act on;
    `fields` is what filters see."""

    key: str
    agent: str
    cells: tuple[Span, ...]
    fields: Mapping[str, Any]
    record: Mapping[str, Any]


class Listing:
    """Rows in their order. Each is made when somebody looks at it: of a flood only those in sight are.

    `items` are the rows' keys with what they are about, of which `make` makes a row.
    """

    def __init__(
        self, items: Iterable[tuple[str, Any]] = (), make: Callable[[str, Any], Row] = lambda key, item: item
    ) -> None:
        self._items, self._make = list(items), make
        self._made: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> Row:
        row = self._made.get(place)
        if row is None:
            row = self._made[place] = self._make(*self._items[place])
        return row

    def place(self, key: str) -> int | None:
        """Where the row of this key stands."""
        return next((place for place, (found, _) in enumerate(self._items) if found == key), None)

    def where(self, holds: Callable[[Mapping[str, Any]], bool]) -> Listing:
        """Those whose fields are so."""
        rows = (self[place] for place in range(len(self)))
        return Listing((row.key, row) for row in rows if holds(row.fields))


class Question(NamedTuple):
    """What must be asked before a page can be shown."""

    verb: str
    arguments: Mapping[str, Any]


@dataclass(slots=True)
class Rates:
    """What changed between two looks at an agent, and how it went before. None: not known yet."""

    cpu: float | None = None  # percent of one CPU
    out: float | None = None  # bytes a second
    inward: float | None = None
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))


class Meter:
    """Rates of all agents, from one look at them to the next."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self.rates: dict[str, Rates] = {}

    def look(self, time: str, agents: Sequence[Mapping[str, Any]]) -> None:
        """`agents` as the daemon tells them, at a time in RFC 3339."""
        at = nanoseconds(time)
        names = {agent["name"] for agent in agents}
        self.rates = {name: rates for name, rates in self.rates.items() if name in names}
        for agent in agents:
            name = agent["name"]
            rates = self.rates.setdefault(name, Rates())
            before = self._before.get(name)
            if before is not None and at <= before[0]:
                if at < before[0]:  # a recording was moved back
                    self._before[name] = at, agent
                continue
            self._before[name] = at, agent
            if before is not None:
                _rate(rates, (at - before[0]) / 1e9, before[1], agent)


def _rate(rates: Rates, seconds: float, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    def per_second(name: str) -> float | None:
        old, new = before.get(name), after.get(name)
        return None if old is None or new is None else max(0.0, (new - old) / seconds)

    cpu = per_second("cpu_us")
    rates.cpu = None if cpu is None else cpu / 10_000
    rates.out, rates.inward = per_second("bytes_out"), per_second("bytes_in")
    rates.history.append(rates.cpu if rates.cpu is not None else rates.out or 0.0)


@dataclass(slots=True)
class Context:
    """What a screen draws from."""

    answers: Answers = field(default_factory=dict)
    rates: Mapping[str, Rates] = field(default_factory=dict)
    agent: str | None = None  # the only one that is looked at
    replay: bool = False
    may_act: bool = False


class Screen:
    """One screen. It asks for `requests`, makes rows of the answers, and says more about the one selected."""

    name: ClassVar[str]
    empty: ClassVar[str]
    """Said where there is no row."""
    newest_first: ClassVar[bool] = False
    """Whether who stands on the first row wants to stay there."""
    fields: ClassVar[Sequence[str]] = ()
    """What filters may name, the most useful first."""

    def requests(self, context: Context) -> list[Question]:
        """What to ask for, again and again."""
        raise NotImplementedError

    def columns(self, context: Context) -> tuple[Column, ...]:
        raise NotImplementedError

    def rows(self, context: Context) -> Listing:
        raise NotImplementedError

    def remark(self, context: Context) -> str:
        """What is to be said beside the rows: how many are not shown."""
        return ""

    def summary(self, row: Row, context: Context) -> list[Line]:
        """A few lines about the row that is selected, the most important first."""
        return []

    def question(self, row: Row) -> Question | None:
        """What `page` needs to be asked for."""
        return None

    def page(self, row: Row, answer: Any) -> list[Line]:
        """All about a row."""
        return [*map(line_of_field, row.record.items())]


def line(*spans: Span | str) -> Line:
    """A line of spans; a plain text has no style."""
    return tuple((span, "") if isinstance(span, str) else span for span in spans)


def line_of_field(item: tuple[str, Any]) -> Line:
    """A name and its value."""
    name, value = item
    return line((f"{name:<20} ", "bold"), words(value))


def words(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return "  ".join(map(words, value)) or "-"
    if isinstance(value, dict):
        return "  ".join(f"{name}={words(one)}" for name, one in value.items())
    return str(value)


def many(count: int, noun: str) -> str:
    """`1 process`, `2 processes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def clock(time: str) -> str:
    """The time of day of an RFC 3339 time, to the second."""
    return time[11:19]


def nanoseconds(time: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time as the daemon writes it."""
    whole, _, part = time.rstrip("Z").partition(".")
    return int(datetime.fromisoformat(f"{whole}+00:00").timestamp()) * 1_000_000_000 + int(part or 0)


def size(count: int | None) -> str:
    """Bytes; a dash where they are not known."""
    return "-" if count is None else byte_count(count)


def speed(rate: float | None) -> str:
    """Bytes a second."""
    return "-" if rate is None else f"{byte_count(int(rate))}/s"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0f} %"


def sparkline(history: Sequence[float], width: int, full: float) -> str:
    """The last samples as bars: `full` fills one, unless there was more."""
    shown = list(history)[-width:]
    top = max(full, *shown, 0.0)
    return "".join(_BARS[round(value / top * (len(_BARS) - 1))] for value in shown)


def state_span(state: str) -> Span:
    return STATE_WORDS.get(state, state), STATE_STYLES.get(state, "")


def level_span(level: str) -> Span:
    return level, LEVEL_STYLES.get(level, "")


def file_name(path: str) -> str:
    return path.rpartition("/")[2] or path or "?"
