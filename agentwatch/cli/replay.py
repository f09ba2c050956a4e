"""`agentwatch replay`: the same pipeline over a trace. Never acts."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import reaches, rule_set
from agentwatch.enrich.state import State
from agentwatch.pipeline import Pipeline
from agentwatch.rules.engine import Engine
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.model import RuleSet
from agentwatch.sinks.alerts import AlertFile, open_alert_file
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.reader import TraceReader


@click.command()
@click.argument("traces", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--rules",
    "rule_paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Other Sigma rules than those recorded in the trace: what would they have caught?",
)
@click.option(
    "--alerts", type=click.Path(path_type=Path), help="Write alerts to FILE instead of standard output."
)
@click.option(
    "--fail-on", type=click.Choice(LEVELS), help="End with 3 when there was an alert at or above this level."
)
@click.option("--strict", is_flag=True, help="End with 6 when the trace says that events were lost.")
def replay(
    traces: tuple[Path, ...],
    rule_paths: tuple[Path, ...],
    alerts: Path | None,
    fail_on: str | None,
    strict: bool,
) -> None:
    """Run recorded traces through the pipeline, under the rules they were recorded with.

    Alerts are byte for byte those of the recording. Nothing is acted on. `-` reads standard
    input. Ends with 5 when a trace is damaged: what is missing is said on standard error.
    """
    with ExitStack() as stack:
        file = _alert_file(stack, alerts)
        replays = [Replay(trace, rule_paths, file) for trace in traces]
        for one in replays:
            one.run()
    sys.exit(_exit_code(replays, fail_on, strict))


def _alert_file(stack: ExitStack, path: Path | None) -> AlertFile:
    if path is None:
        return AlertFile(sys.stdout.buffer)
    try:
        return AlertFile(stack.enter_context(open_alert_file(path)))
    except OSError as error:
        raise Failure(f"the alert file cannot be written: {path}: {error.strerror}") from None


class Replay:
    """One trace through one pipeline."""

    def __init__(self, trace: Path, rule_paths: tuple[Path, ...], file: AlertFile) -> None:
        self.trace, self.highest, self.damaged, self.lost = trace, -1, False, False
        self._rule_paths = rule_paths
        self._file = file

    def run(self) -> None:
        """Replay; damage is told on standard error and the rest goes on."""
        try:
            with TraceReader("-" if str(self.trace) == "-" else self.trace) as reader:
                pipeline = self._pipeline(reader)
                for batches in reader:
                    pipeline.process(batches)
                pipeline.finish()
                self._report(reader, pipeline)
        except TraceError as error:
            click.echo(f"agentwatch: {self.trace}: {error}", err=True)
            self.damaged = True

    def _pipeline(self, reader: TraceReader) -> Pipeline:
        header = reader.header
        return Pipeline(
            Engine(self._rules(reader), clock_offset=header.clock_offset),
            state=State(_users(header)),
            sinks=[self._alert],
            clock_offset=header.clock_offset,
            reloads=not self._rule_paths,
        )

    def _rules(self, reader: TraceReader) -> RuleSet:
        if self._rule_paths or not reader.rules:
            return rule_set(self._rule_paths)
        try:
            return RuleSet.from_bytes(reader.rules)
        except ValueError as error:
            raise TraceError(
                f"the rules in the trace cannot be read ({error}); name some with --rules"
            ) from None

    def _alert(self, alert: dict[str, object]) -> None:
        rule = alert["rule"]
        assert isinstance(rule, dict)
        self.highest = max(self.highest, LEVELS.index(rule["level"]))
        self._file.write(alert)

    def _report(self, reader: TraceReader, pipeline: Pipeline) -> None:
        for damage in reader.damage:
            click.echo(f"agentwatch: {self.trace}: {damage}", err=True)
        self.damaged = bool(reader.damage) or pipeline.counters.unreadable > 0
        self.lost = any(agent.lost for agent in pipeline.state.agents.values())
        counters = pipeline.counters
        click.echo(
            f"agentwatch: {self.trace}: {counters.records} records, {counters.alerts} alerts", err=True
        )


def _users(header: TraceHeader) -> dict[int, str]:
    users = header.extra.get("users")
    if not isinstance(users, dict):
        return {}
    return {int(uid): str(name) for uid, name in users.items() if str(uid).isdecimal()}


def _exit_code(replays: list[Replay], fail_on: str | None, strict: bool) -> int:
    if any(one.damaged for one in replays):
        return Exit.DAMAGED
    highest = max(one.highest for one in replays)
    if highest >= 0 and reaches(LEVELS[highest], fail_on):
        return Exit.FINDINGS
    if strict and any(one.lost for one in replays):
        return Exit.LOST
    return Exit.FINE
