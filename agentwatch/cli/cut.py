"""`agentwatch trace cut` and `merge`: traces made of traces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.paths import trace_file
from agentwatch.replay import Moment, Order, Recording, Replay, recordings
from agentwatch.trace.cut import Selection
from agentwatch.trace.cut import cut as cut_trace
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.merge import merge as merge_traces
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.sign import Signer, read_signer
from agentwatch.tui.text import printable


def _moment(context: click.Context, option: click.Parameter, value: str | None) -> Moment | None:
    try:
        return None if value is None else Moment.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_output = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    callback=trace_file,
    help="The new trace; must not exist.",
)
_sign = click.option("--sign", type=_file, help="Sign it with this Ed25519 key.")


@click.command()
@click.argument("trace", type=_file)
@_output
@click.option("--agent", help="What concerns the agent of this name.")
@click.option("--pid", type=int, help="A process, all below it, and who is above it.")
@click.option("--from", "begin", callback=_moment, help="RFC 3339, or seconds since the recording began.")
@click.option("--to", "end", callback=_moment, help="The last moment; likewise.")
@click.option("--alert", type=click.IntRange(1), help="The agent of the N-th alert of a replay, around it.")
@click.option("--before", default=60, show_default=True, help="With --alert: seconds before it.")
@click.option("--after", default=30, show_default=True, help="With --alert: seconds after it.")
@_sign
def cut(trace: Path, output: Path, begin: Moment | None, end: Moment | None, alert: int | None,
        before: int, after: int, sign: Path | None, agent: str | None, pid: int | None) -> None:  # fmt: skip
    """Write a part of TRACE, with all files of its recording, to a new trace.

    It begins with what was so there, so that it can be replayed, and names the frames that it was
    taken from. Ends with 5 when TRACE is damaged; the new trace says where.

    Example: agentwatch trace cut run.awt --alert 1 -o first.awt
    """
    try:
        (files,) = recordings([trace])
        header = _header(trace)
        span = [one.since_boot(header) if one is not None else None for one in (begin, end)]
        selection = Selection(agent, pid, *span)
        if alert is not None:
            selection = _around(files, header, alert, before, after, selection)
        done = cut_trace(files, selection, output, signer=_signer(sign))
    except TraceError as error:
        raise Failure(printable(str(error))) from None
    _tell(output, done.rounds, done.damage)


@click.command()
@click.argument("traces", nargs=-1, required=True, type=_file, metavar="TRACE...")
@_output
@_sign
def merge(traces: tuple[Path, ...], output: Path, sign: Path | None) -> None:
    """Write several traces of one boot as one, in the order of time.

    Agents get new numbers and keep their names. Traces of several hosts or boots stay apart: `replay`
    takes them side by side. Ends with 5 when one is damaged.
    """
    try:
        for trace in traces:
            _header(trace)
        done = merge_traces(traces, output, signer=_signer(sign))
    except TraceError as error:
        raise Failure(printable(str(error))) from None
    if not done.rules:
        click.echo("agentwatch: the traces have different rules, the new one has none: use --rules", err=True)
    _tell(output, done.rounds, done.damage)


def _header(path: Path) -> TraceHeader:
    """What a trace says of itself. Raises `TraceError`, which names it."""
    try:
        with TraceReader(path) as reader:
            return reader.header
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def _signer(path: Path | None) -> Signer | None:
    return None if path is None else read_signer(path)


def _around(files: Recording, header: TraceHeader, number: int, before: int, after: int,
            selection: Selection) -> Selection:  # fmt: skip
    """The selection around an alert of a replay; what was selected besides stays so."""
    lines: list[bytes] = []

    def keep(line: bytes) -> None:
        lines.append(line if len(lines) + 1 == number else b"")

    Replay(files, Order(), keep, lambda done: None).run()
    if number > len(lines):
        raise TraceError(f"a replay of the trace has {len(lines)} alerts, no {number}th")
    alert = json.loads(lines[number - 1])
    time = Moment.parse(alert["time"]).since_boot(header)
    return Selection(
        selection.agent or alert["agent"],
        selection.pid,
        max(1, time - before * 1_000_000_000) if selection.begin is None else selection.begin,
        time + after * 1_000_000_000 if selection.end is None else selection.end,
    )


def _tell(output: Path, rounds: int, damage: list[str]) -> None:
    click.echo(f"agentwatch: {printable(str(output))}: {rounds} rounds", err=True)
    for text in damage:
        click.echo(f"agentwatch: {printable(text)}", err=True)
    sys.exit(Exit.DAMAGED if damage else Exit.FINE)
