"""`agentwatch rules`: list, check, test, explain and import rules."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import rule_set
from agentwatch.resources import RULES
from agentwatch.rules import samples
from agentwatch.rules.check import exemption_warnings, warnings
from agentwatch.rules.engine import Engine
from agentwatch.rules.explain import explain_alert
from agentwatch.rules.load import load_rules, survey_rules
from agentwatch.rules.model import Refused, Rule, RuleError, RuleSet
from agentwatch.trace.error import TraceError

_PATH = click.Path(path_type=Path)
_PATHS = click.argument("paths", nargs=-1, type=_PATH, metavar="[PATH]...")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def rules() -> None:
    """List, check, test, explain and import Sigma rules.

    Where no PATH is given, the shipped rules are meant.
    """


@rules.command("list")
@_PATHS
@_JSON
def list_rules(paths: tuple[Path, ...], as_json: bool) -> None:
    """List the rules: level, response, what they look at, id and title."""
    found = rule_set(paths)
    if as_json:
        _print_json(_plain(rule) for rule in found.rules)
        return
    _print_table(
        [rule.level, rule.response, ",".join(rule.conditions) or rule.kind, rule.id, rule.title]
        for rule in found.rules
    )


@rules.command()
@_PATHS
@click.option("--exceptions", multiple=True, type=_PATH, help="A file of exceptions; may be repeated.")
def check(paths: tuple[Path, ...], exceptions: tuple[Path, ...]) -> None:
    """Check rules and exceptions; say what in them cannot hold or makes no difference.

    Ends with 1 if something cannot be loaded. Warnings alone end with 0.
    """
    try:
        found = load_rules(list(paths) or [RULES], exceptions=exceptions)
    except RuleError as error:
        for problem in error.problems:
            click.echo(f"{problem.file}:{problem.line}: error: {problem.reason}")
        raise Failure(f"{_count(len(error.problems), 'error')}", Exit.FAILURE) from None
    notes = list(_notes(found))
    for file, line, text in notes:
        click.echo(f"{file}:{line}: {text}")
    click.echo(f"{_count(len(found.rules), 'rule')}, {_count(len(notes), 'remark')}")


@rules.command()
@_PATHS
@click.option(
    "--samples",
    "folder",
    type=_PATH,
    default=RULES.parent / "tests" / "rules",
    help="Where the samples lie: TACTIC/NAME/hit*, miss*, undecided* for the rule TACTIC/NAME.yml.",
)
@_JSON
def test(paths: tuple[Path, ...], folder: Path, as_json: bool) -> None:
    """Run every rule over its samples, recorded traces or events, and print a table.

    Ends with 1 if a rule hits what it should miss or misses what it should hit. A rule without a
    sample that it hits is named, but is no failure.
    """
    found = rule_set(paths)
    results = list(samples.run(found, folder, replay_trace))
    if as_json:
        _print_json(
            {"rule": one.rule.id, "sample": str(one.file), "expected": one.expected, "found": one.found}
            for one in results
        )
    else:
        _print_table(_summary(rule, results) for rule in found.rules)
        for one in results:
            if not one.passed:
                click.echo(f"{one.file}: {one.rule.title}: expected {one.expected}, found {one.found}")
    sys.exit(Exit.FINE if all(one.passed for one in results) else Exit.FAILURE)


@rules.command()
@click.argument("alerts", type=click.File(encoding="utf-8", errors="backslashreplace"), metavar="ALERTS")
@click.option("--number", default=-1, help="Which alert of the file, from 1; the last one by default.")
@click.option("--rules", "rule_paths", multiple=True, type=_PATH, help="The rules that made the alert.")
@click.option(
    "--trace", type=click.Path(path_type=Path, exists=True), help="The recording, for the evidence."
)
def explain(alerts: Iterable[str], number: int, rule_paths: tuple[Path, ...], trace: Path | None) -> None:
    """Explain an alert of ALERTS (- for standard input): what matched what, and the evidence.

    With --trace, every event of the evidence is shown with what matched in it; without, the
    alert's own event is explained from what the alert tells of it.
    """
    alert = _pick([line for line in alerts if line.strip()], number)
    found = rule_set(rule_paths)
    rule = next((rule for rule in found.rules if rule.id == alert["rule"]["id"]), None)
    if rule is None:
        raise Failure(f"rule {alert['rule']['id']!a} is not among these rules; name its file with --rules")
    for line in _explanation(rule, alert):
        click.echo(line)
    for line in _evidence(found, rule, alert, trace) if trace else ():
        click.echo(line)


@rules.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@_JSON
def import_rules(paths: tuple[Path, ...], as_json: bool) -> None:
    """Report what of foreign rules is evaluated, partly evaluated, refused or broken, and why.

    Nothing is copied: rules that please are named with --rules, or put into the rule folder.
    Ends with 1 if a file is broken.
    """
    found, problems = survey_rules(paths)
    report: list[tuple[str, Rule | Refused, str]] = [
        *(("evaluated", rule, "") for rule in found.rules if not rule.partial),
        *(("partly", rule, "; ".join(rule.partial)) for rule in found.rules if rule.partial),
        *(("refused", refused, refused.reason) for refused in found.refused),
    ]
    broken = [{"file": p.file, "line": p.line, "verdict": "broken", "reason": p.reason} for p in problems]
    if as_json:
        _print_json([*(_line(*entry) for entry in report), *broken])
    else:
        _print_report(report)
        for problem in problems:
            click.echo(f"broken     {problem}")
        counts = {word: sum(verdict == word for verdict, _, _ in report) for word in _VERDICTS}
        click.echo(", ".join(f"{count} {word}" for word, count in counts.items()) + f", {len(broken)} broken")
    sys.exit(Exit.FAILURE if problems else Exit.FINE)


_VERDICTS = ("evaluated", "partly", "refused")


def replay_trace(file: Path, make_engine: Callable[[int], Engine]) -> None:
    """A recorded trace through the one pipeline, with an engine of one's own."""
    from agentwatch.enrich.state import State  # noqa: PLC0415 - other verbs need no pipeline
    from agentwatch.pipeline import Pipeline  # noqa: PLC0415
    from agentwatch.trace.reader import TraceReader  # noqa: PLC0415

    with TraceReader(file) as reader:
        header = reader.header
        pipeline = Pipeline(
            make_engine(header.clock_offset),
            state=State(header.users, header.training),
            clock_offset=header.clock_offset,
        )
        for batches in reader:
            pipeline.process(batches)
        pipeline.finish()


def _plain(rule: Rule) -> dict[str, Any]:
    names = ("id", "title", "level", "status", "response", "scope", "kind", "file", "line")
    lists = {"tags": rule.tags, "categories": list(rule.conditions), "partial": rule.partial}
    return {**{name: getattr(rule, name) for name in names}, **lists}


def _notes(found: RuleSet) -> Iterator[tuple[str, int, str]]:
    for rule, text in warnings(found):
        yield rule.file, rule.line, f"warning: {text}"
    for rule in found.rules:
        for text in rule.partial:
            yield rule.file, rule.line, f"partly evaluated: {text}"
    for exemption, text in exemption_warnings(found.exemptions, time.time_ns()):
        yield exemption.file, exemption.line, f"warning: {text}"
    for refused in found.refused:
        yield refused.file, refused.line, f"not evaluated: {refused.reason}"


def _summary(rule: Rule, results: Sequence[samples.Sample]) -> list[str]:
    own = [one for one in results if one.rule is rule]
    counts = []
    for word in samples.EXPECTED:
        of_kind = [one for one in own if one.expected == word]
        counts.append(f"{word} {sum(one.passed for one in of_kind)}/{len(of_kind)}")
    tested = any(one.expected == "hit" for one in own)
    verdict = "FAILED" if not all(one.passed for one in own) else "ok" if tested else "no sample"
    return [verdict, *counts, rule.level, rule.title]


def _pick(lines: Sequence[str], number: int) -> Any:
    try:
        alert = json.loads(lines[number - 1 if number > 0 else number])
        alert["rule"]["id"], alert["evidence"], alert["agent"], alert["completeness"]["why"]
    except IndexError:
        raise Failure(f"there are {len(lines)} alerts") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"this is no alert: {error!r}") from None
    return alert


def _explanation(rule: Rule, alert: Any) -> Iterator[str]:
    """Lines for a terminal; whatever an agent wrote is shown as a Python literal."""
    yield f"{rule.title} ({rule.level}, {rule.response})"
    yield f"{rule.id}  {rule.file}:{rule.line}"
    yield ""
    yield rule.description
    yield ""
    process = alert.get("process") or {}
    for depth, one in enumerate([process, *(process.get("ancestors") or ())]):
        arguments = " ".join(map(repr, one.get("cmdline") or ()))
        yield f"{'  ' * depth}{one.get('pid')} {one.get('exe')!r} {arguments}"
    yield ""
    details = explain_alert(rule, alert)
    for detail in details:
        yield str(detail)
    if rule.correlation is not None:
        yield f"{rule.correlation.type} of {', '.join(rule.correlation.rules)}"
    elif not details:
        yield "The alert does not hold enough to see what matched; replay its trace."
    yield f"evidence: records {', '.join(map(str, alert['evidence']))} of the trace"
    yield f"completeness: {', '.join(map(str, alert['completeness']['why'])) or 'complete'}"
    if rule.falsepositives:
        yield f"known false positives: {'; '.join(rule.falsepositives)}"


def _evidence(found: RuleSet, rule: Rule, alert: Any, trace: Path) -> Iterator[str]:
    """What the rule, and the rules that it counts, matched in each event of the evidence."""
    loud = replace(found, rules=tuple(replace(one, silent=False) for one in found.rules))
    wanted = _counted(found, rule.id)
    try:
        matches = samples.matches_of(loud, trace, replay_trace)
    except (OSError, ValueError, TraceError) as error:
        raise Failure(f"the trace {trace} cannot be read: {error}", Exit.DAMAGED) from None
    for match in matches:
        if match.rule.id in wanted and match.event.seq in alert["evidence"] and match.rule.conditions:
            yield f"record {match.event.seq}, {match.event.category}: {match.rule.title}"
            yield from (f"    {detail}" for detail in match.details)


def _counted(found: RuleSet, rule_id: str) -> set[str]:
    """A rule and, along chains of correlations, the rules that it counts."""
    rules = {rule.id: rule for rule in found.rules}
    reached, ahead = set[str](), [rule_id]
    while ahead:
        one = ahead.pop()
        if one in rules and one not in reached:
            reached.add(one)
            correlation = rules[one].correlation
            ahead += correlation.rules if correlation else ()
    return reached


def _line(verdict: str, rule: Rule | Refused, reason: str) -> dict[str, Any]:
    return {"verdict": verdict, "id": rule.id, "title": rule.title, "file": rule.file, "reason": reason}


def _print_report(report: Iterable[tuple[str, Rule | Refused, str]]) -> None:
    for verdict, rule, reason in report:
        click.echo(f"{verdict:10} {rule.title}  ({rule.file}:{rule.line})")
        if reason:
            click.echo(f"{'':10}   {reason}")


def _print_json(items: Iterable[dict[str, Any]]) -> None:
    for item in items:
        click.echo(json.dumps(item, sort_keys=True))


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as they need to be, a row a line, for eyes and for grep."""
    found = list(rows)
    if not found:
        return
    widths = [max(len(row[column]) for row in found) for column in range(len(found[0]))]
    for row in found:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
