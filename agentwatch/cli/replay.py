"""`agentwatch replay`: the same pipeline over recordings. Never acts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import IO

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import reaches, rule_set
from agentwatch.cli.paths import STANDARD_OUTPUT
from agentwatch.collector import settle
from agentwatch.replay import (
    STANDARD_INPUT,
    Comparison,
    Difference,
    Moment,
    Order,
    Outcome,
    Recording,
    ReplayError,
    Write,
    recordings,
    replay_all,
)
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.model import RuleSet
from agentwatch.sinks.alerts import open_alert_file
from agentwatch.tui.text import printable

Progress = Callable[[int, int], object]


def _moment(context: click.Context, option: click.Parameter, value: str | None) -> Moment | None:
    try:
        return None if value is None else Moment.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Tell the alerts of recordings again.")
@click.argument(
    "traces", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="TRACE..."
)
@click.option(
    "--rules",
    "rule_paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Other Sigma rules than those recorded in the trace: what would they have caught?",
)
@click.option(
    "--exceptions",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Exceptions to the rules of --rules: a file; may be repeated.",
)
@click.option(
    "--alerts",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write alerts to FILE; - is standard output, the default without --check.",
)
@click.option(
    "--check",
    type=click.File("rb"),
    metavar="ALERTS",
    help="Compare with this file of alerts, made with the same options; end with 3 when they differ.",
)
@click.option(
    "--from",
    "begin",
    metavar="TIME",
    callback=_moment,
    help="Tell alerts from here on: 2026-01-31T12:00:00Z, or seconds since the recording began.",
)
@click.option("--to", "end", metavar="TIME", callback=_moment, help="Tell alerts up to here.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="all CPUs",
    help="How many recordings are replayed side by side.",
)
@click.option(
    "--fail-on", type=click.Choice(LEVELS), help="End with 3 when there was an alert at or above this level."
)
@click.option("--strict", is_flag=True, help="End with 6 when the trace says that events were lost.")
def replay(
    traces: tuple[Path, ...],
    rule_paths: tuple[Path, ...],
    exceptions: tuple[Path, ...],
    alerts: Path | None,
    check: IO[bytes] | None,
    begin: Moment | None,
    end: Moment | None,
    jobs: int,
    fail_on: str | None,
    strict: bool,
) -> None:
    """Run recorded traces through the pipeline, under the rules they were recorded with.

    Alerts are byte for byte those of the recording, in the order of the traces. Nothing is acted
    on. `-` reads standard input. The further files of a recording are found beside its first one
    and replayed as one with it. --from and --to choose what is told; what came before is taken
    into account.

    Ends with 5 when a trace is damaged or lacks its beginning: what is missing is said on standard
    error.
    """
    if exceptions and not rule_paths:
        raise click.UsageError("--exceptions goes with --rules: recorded rules come with their own")
    order = Order(_other_rules(rule_paths, exceptions), begin, end)
    work = recordings(traces)
    comparison = Comparison(check) if check is not None else None
    with ExitStack() as stack:
        writes = _destinations(stack, alerts, comparison)
        progress = stack.enter_context(_progress(work, to_stdout=_to_standard_output in writes))
        outcomes = _replay(work, order, writes, jobs, progress)
    difference = comparison.finish() if comparison is not None else None
    if difference is not None:
        _show(difference)
    sys.exit(_exit_code(outcomes, fail_on, strict, difference))


def _other_rules(paths: Sequence[Path], exceptions: Sequence[Path]) -> RuleSet | None:
    """Those of --rules. None of them would catch nothing, which is no answer."""
    if not paths:
        return None
    rules = rule_set(paths, exceptions)
    if not rules.rules:
        named = ", ".join(map(str, paths))
        raise Failure(f"there are no rules in {named}: name files of Sigma rules, or folders with some")
    return rules


def _destinations(stack: ExitStack, path: Path | None, comparison: Comparison | None) -> list[Write]:
    """Where lines go: to a file, to the comparison, or else to standard output."""
    writes: list[Write] = [] if comparison is None else [comparison.write]
    if path == STANDARD_OUTPUT:
        writes.append(_to_standard_output)
    elif path is not None:
        try:
            writes.append(_Unbuffered(stack.enter_context(open_alert_file(path))).write)
        except OSError as error:
            raise Failure(f"the alert file cannot be written: {path}: {error.strerror}") from None
    return writes or [_to_standard_output]


class _Unbuffered:
    """Whole lines into a file, each at once: a reader that follows sees it."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]


def _to_standard_output(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _replay(
    work: Sequence[Recording], order: Order, writes: Sequence[Write], jobs: int, progress: Progress
) -> list[Outcome]:
    def write(line: bytes) -> None:
        for one in writes:
            one(line)

    outcomes = []
    settle()
    try:
        for files, outcome in zip(
            work, replay_all(work, order, write, jobs=jobs, progress=progress), strict=True
        ):
            _tell(files, outcome)
            outcomes.append(replace(outcome, remarks=[]))
    except BrokenPipeError:
        raise  # whoever read the alerts has seen enough
    except ReplayError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"the alerts cannot be written: {error.strerror or error}") from None
    return outcomes


def _tell(files: Recording, outcome: Outcome) -> None:
    name = printable(str(files[0]))
    for remark in outcome.remarks:
        click.echo(f"agentwatch: {name}: {printable(remark)}", err=True)
    click.echo(f"agentwatch: {name}: {outcome.records} records, {outcome.alerts} alerts", err=True)


@contextmanager
def _progress(work: Sequence[Recording], to_stdout: bool) -> Iterator[Progress]:
    """A bar on standard error, where that is a terminal and alerts do not run over it."""
    if not sys.stderr.isatty() or (to_stdout and sys.stdout.isatty()):
        yield lambda index, done: None
        return
    from rich.console import Console  # noqa: PLC0415 - nobody pays for what is not shown
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    sizes = [_size(files) for files in work]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    read = [0] * len(work)
    columns = BarColumn(), DownloadColumn(), TimeRemainingColumn()
    # Without a thread of its own: workers are forked beside it.
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False
    ) as bar:
        task = bar.add_task("", total=total)

        def show(index: int, done: int) -> None:
            read[index] = done
            bar.update(task, completed=sum(read), refresh=True)

        yield show


def _size(files: Recording) -> int | None:
    try:
        return None if STANDARD_INPUT in files else sum(path.stat().st_size for path in files)
    except OSError:
        return None


def _show(difference: Difference) -> None:
    click.echo(f"agentwatch: alerts differ, first in line {difference.number}:", err=True)
    for sign, line in (("-", difference.earlier), ("+", difference.now)):
        text = line.rstrip(b"\n").decode("utf-8", "backslashreplace")
        click.echo(f"{sign} {printable(text, len(text)) if line else '(end of the alerts)'}", err=True)


def _exit_code(
    outcomes: Sequence[Outcome], fail_on: str | None, strict: bool, difference: Difference | None
) -> int:
    if any(one.damaged for one in outcomes):
        return Exit.DAMAGED
    highest = max(one.highest for one in outcomes)
    if difference is not None or (highest >= 0 and reaches(LEVELS[highest], fail_on)):
        return Exit.FINDINGS
    if strict and any(one.lost for one in outcomes):
        return Exit.LOST
    return Exit.FINE
