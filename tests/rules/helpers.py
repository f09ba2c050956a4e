"""Rules and events for the tests of `agentwatch.rules`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentwatch.event import Event, Value
from agentwatch.rules.engine import Engine, Match
from agentwatch.rules.lower import lower
from agentwatch.rules.model import RuleError, RuleSet

SECOND = 1_000_000_000


def rules(*documents: str, **lists: str) -> RuleSet:
    """The rules of YAML documents, each given as the text of a file; lists by name."""
    files = {f"rule{number}.yml": text.encode() for number, text in enumerate(documents)}
    found, problems = lower(files, {name: words.encode() for name, words in lists.items()})
    if problems:
        raise RuleError(*problems)
    return found


def rule(detection: str, head: str = "title: a rule", category: str = "process_creation") -> str:
    """A rule around the lines of its detection."""
    lines = "\n".join(f"  {line}" for line in detection.strip("\n").splitlines())
    return f"{head}\nlogsource:\n  category: {category}\n  product: linux\ndetection:\n{lines}\n"


def event(
    category: str = "process_creation",
    *,
    time: float = 0,
    seq: int = 1,
    agent: str = "a",
    truncated: Sequence[str] = (),
    values: Mapping[str, Value] | None = None,
    **fields: Value,
) -> Event:
    """An event with these fields, as keywords or as `values`; `time` in seconds."""
    return Event(category, int(time * SECOND), seq, agent, {**(values or {}), **fields}, frozenset(truncated))


def verdict(matches: Sequence[Match]) -> bool | None:
    """True for one match, None for one undecided match, False for none."""
    assert len(matches) <= 1
    return (None if matches[0].undecided else True) if matches else False


def judge(detection: str, of: Event, **lists: str) -> bool | None:
    """The verdict of one rule on one event."""
    return verdict(Engine(rules(rule(detection), **lists)).evaluate(of))
