"""What a run is told as: a table for the terminal, docs/scoreboard.md, JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentwatch.tui.text import printable
from bench.scoreboard.scenarios import Scenario
from bench.scoreboard.score import OFFLINE, REAL, SKIPPED, Family, Result, Score, by_how, wilson

_COMMON = ("unix_connection", "socket_creation", "network_listen")  # events of any program
_MOST = 5  # events told of a scenario
_HEAD = ("family", "n", "real", "attacks found", "95 % interval", "honest: alert", "more", "95 % interval")


@dataclass(frozen=True)
class Origin:
    """Where a run's figures come from: which set of scenarios, which rules, when."""

    name: str
    date: str
    rules: int
    digest: str

    @property
    def machine(self) -> str:
        return f"Linux {platform.release()}, {platform.machine()}"


def table(score: Score) -> str:
    """The families and the total, in columns."""
    rows = [_HEAD, *(_row(family) for family in [*score.families, score.total])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _row(family: Family) -> tuple[str, ...]:
    attacks = f"{family.found}/{family.attacks}" if family.attacks else "-"
    alerts = f"{family.alerts}/{family.benign}" if family.benign else "-"
    above = f"{family.above}/{family.benign}" if family.benign else "-"
    return (
        family.name,
        str(family.attacks + family.benign),
        str(family.real),
        attacks,
        _interval(family.found, family.attacks),
        alerts,
        above,
        _interval(family.alerts + family.above, family.benign),
    )


def _interval(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{low:.0%} - {high:.0%}" if n else "-"


def miss(result: Result, *, command: bool = True) -> str:
    """One line about a scenario that was judged wrongly; without `command`, nothing of its text."""
    one = result.scenario
    got = f"{result.verdict} ({'; '.join(result.rules)})" if result.rules else result.verdict
    named = f"{one.id} {one.family}: {one.command} -" if command else f"{one.id} {one.family}:"
    text = f"{named} expected {one.expected}, got {got} [{result.how}]"
    return printable(f"{text}; {_reason(result)}" if command else text)


def _reason(result: Result) -> str:
    """What there was to decide by, as far as it is more than programs and connections."""
    if result.why:
        return result.why
    told = [event for event in result.events if not event.startswith(_COMMON)]
    if not told:
        return "noticed: programs and connections only"
    more = f", and {len(told) - _MOST} more" if len(told) > _MOST else ""
    return f"noticed: {', '.join(told[:_MOST])}{more}"


def terminal(score: Score) -> Iterator[str]:
    """The whole report in lines of text."""
    yield table(score)
    for title, results in (("wrong", score.misses), ("honest with an alert", score.benign_alerts)):
        if results:
            yield f"\n{title}:"
            yield from (f"  {miss(result)}" for result in results)
    skipped = by_how(score.results, SKIPPED)
    if skipped:
        yield f"\n{len(skipped)} skipped:"
        yield from (f"  {_about(one)}" for one in skipped)
    yield from (f"\ntarget missed: {words}" for words in score.shortcomings())


def _about(result: Result) -> str:
    return printable(f"{result.scenario.id}: {result.why}")


def markdown(runs: Sequence[tuple[Origin, Score]]) -> str:
    """docs/scoreboard.md."""
    parts = [
        "# Scoreboard\n",
        "Written by `./dev scoreboard` from a run; not edited by hand. Each scenario is what an agent does: "
        "an attack must get at least the expected verdict, honest work nothing above an alert. `real` ran "
        "under watch in a sandbox and a network of its own; the others were judged offline, by rules over "
        "events written down with the scenario. A stand-in for an absent tool has its name, its arguments "
        "and its first bytes, if any. Intervals are Wilson's, of 95 %.\n",
    ]
    for origin, score in runs:
        parts += list(_section(origin, score))
    return "\n".join(parts)


def _section(origin: Origin, score: Score) -> Iterator[str]:
    yield f"## {origin.name}\n"
    yield f"{origin.date}, {origin.machine}; {origin.rules} rules, digest `{origin.digest[:16]}`.\n"
    yield "| " + " | ".join(_HEAD) + " |"
    yield "|---" * len(_HEAD) + "|"
    for family in [*score.families, score.total]:
        yield "| " + " | ".join(_row(family)) + " |"
    yield ""
    said = score.shortcomings()
    yield f"Targets: {'; '.join(said) if said else 'all met'}.\n"
    ours = origin.name == "own"  # the text of the corpus stays outside of the repository
    yield from _list("Wrong", (miss(one, command=ours) for one in score.misses))
    yield from _list("Honest work with an alert", (miss(one, command=ours) for one in score.benign_alerts))
    yield from _list("Judged offline", (_about(one) for one in by_how(score.results, OFFLINE)))
    yield from _list("Skipped", (_about(one) for one in by_how(score.results, SKIPPED)))
    real = by_how(score.results, REAL)
    yield f"Run for real: {', '.join(one.scenario.id for one in real) or 'none'}.\n"
    played = (f"{one.scenario.id} ({', '.join(one.stand_ins)})" for one in real if one.stand_ins)
    told = ", ".join(played) or "none"
    yield f"Among them with a stand-in for a tool that is absent or must not act: {told}.\n"


def _list(title: str, lines: Iterable[str]) -> Iterator[str]:
    found = [f"- {_escaped(line)}" for line in lines]
    if found:
        yield "\n".join([f"{title}:\n", *found, ""])


def _escaped(text: str) -> str:
    """A line of text as such in Markdown."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|" else letter for letter in text)


def from_json(line: str, known: Mapping[str, Scenario]) -> Result:
    """The result of a line of `to_json`, about one of the scenarios known."""
    told = json.loads(line)
    names = ("how", "verdict", "why", "rules", "stand_ins", "seen", "events", "output", "seconds")
    return Result(known[told["id"]], **{name: told[name] for name in names})


def to_json(name: str, result: Result) -> str:
    """One line a scenario."""
    one = result.scenario
    return json.dumps(
        {
            "set": name,
            "id": one.id,
            "kind": one.kind,
            "family": one.family,
            "expected": one.expected,
            "verdict": result.verdict,
            "right": result.right if result.judged else None,
            "how": result.how,
            "why": result.why,
            "rules": list(result.rules),
            "stand_ins": list(result.stand_ins),
            "seen": list(result.seen),
            "events": list(result.events),
            "output": result.output,
            "seconds": round(result.seconds, 2),
        },
        sort_keys=True,
    )
