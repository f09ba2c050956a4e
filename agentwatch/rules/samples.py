"""Rules against recorded behaviour: each rule has samples that it must hit and samples that it must miss.

The samples of `rules/TACTIC/NAME.yml` lie in `TACTIC/NAME/`: files whose names begin with `hit`,
`miss` or `undecided`. A file ending in `.ndjson` holds events, one a line:

    {"category": "flow", "fields": {"Protocol": "stratum"}, "truncated": [], "time": 0}

with `time` in seconds; any other file is a recorded trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentwatch.event import Event, Value
from agentwatch.rules.engine import Engine, Match, compile_plans
from agentwatch.rules.index import Plan
from agentwatch.rules.model import NANOSECONDS, Rule, RuleSet

EXPECTED = ("hit", "miss", "undecided")
EVENTS = ".ndjson"


@dataclass(frozen=True, slots=True)
class Sample:
    """One rule on one sample. `found` is a word of `EXPECTED`, or what kept it from being run."""

    rule: Rule
    file: Path
    expected: str
    found: str

    @property
    def passed(self) -> bool:
        """Whether the rule did what its sample is for."""
        return self.found == self.expected


class Recorder(Engine):
    """An engine that adds its matches to a list."""

    def __init__(
        self, ruleset: RuleSet, matches: list[Match], plans: Mapping[str, Plan], clock_offset: int = 0
    ) -> None:
        super().__init__(ruleset, clock_offset=clock_offset, plans=plans)
        self.matches = matches

    def evaluate(self, event: Event) -> list[Match]:
        """Matches of the event, kept."""
        found = super().evaluate(event)
        self.matches += found
        return found


# Runs a trace through the pipeline, with the engine that is made for the clock's offset.
Replay = Callable[[Path, Callable[[int], Engine]], None]


def run(ruleset: RuleSet, folder: Path, replay: Replay) -> Iterator[Sample]:
    """Every rule of the set that makes alerts on each of its samples, in the order of the set."""
    plans = compile_plans(ruleset)
    for rule in ruleset.rules:
        if rule.silent:  # it is seen in what counts it
            continue
        for file in samples_of(rule, folder):
            expected = next(word for word in EXPECTED if file.name.startswith(word))
            try:
                matches = matches_of(ruleset, file, replay, plans)
                found = _verdict([match for match in matches if match.rule.id == rule.id])
            except (OSError, ValueError) as error:
                found = f"cannot be run: {error}"
            yield Sample(rule, file, expected, found)


def samples_of(rule: Rule, folder: Path) -> list[Path]:
    """The samples of a rule, in order of their names."""
    own = folder / Path(rule.file).parent.name / Path(rule.file).stem
    return sorted(file for file in own.glob("*") if file.name.startswith(EXPECTED))


def matches_of(
    ruleset: RuleSet, file: Path, replay: Replay, plans: Mapping[str, Plan] | None = None
) -> list[Match]:
    """All matches over a sample. Raises ValueError or OSError for one that cannot be read."""
    matches: list[Match] = []
    shared = compile_plans(ruleset) if plans is None else plans
    if file.suffix != EVENTS:
        replay(file, lambda clock_offset: Recorder(ruleset, matches, shared, clock_offset))
        return matches
    engine = Recorder(ruleset, matches, shared)
    with file.open(encoding="utf-8") as lines:
        for seq, line in enumerate(lines, 1):
            if line.strip():
                engine.evaluate(event_of(json.loads(line), seq))
    return matches


def event_of(plain: Any, seq: int) -> Event:
    """An event from a line of a sample. Raises ValueError for anything else."""
    try:
        fields = {str(name): _value(value) for name, value in plain["fields"].items()}
        return Event(
            category=str(plain["category"]),
            time=int(plain.get("time", 0) * NANOSECONDS),
            seq=seq,
            agent=str(plain.get("agent", "sample")),
            fields=fields,
            truncated=frozenset(map(str, plain.get("truncated", ()))),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"line {seq} is no event: {error!r}") from error


def _value(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(str(item) for item in value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{value!r} is no value of a field")


def _verdict(matches: list[Match]) -> str:
    if not matches:
        return "miss"
    return "undecided" if all(match.undecided for match in matches) else "hit"
