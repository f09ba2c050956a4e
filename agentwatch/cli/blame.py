"""`agentwatch blame`: who did it, step by step."""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentwatch.cli.exits import Exit
from agentwatch.cli.telling import Missing
from agentwatch.tui.text import printable

if TYPE_CHECKING:
    from agentwatch.forensics.blame import Blame, Case, Step, Wanted
    from agentwatch.forensics.story import Story

LINE = 2000  # characters of a step shown


@click.command(short_help="Tell who did it, step by step.")
@click.argument(
    "traces", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="TRACE..."
)
@click.option("--alert", type=click.IntRange(1), metavar="N", help="The n-th alert of the recording.")
@click.option("--flow", metavar="ADDRESS[:PORT]", help="Who spoke with this address or host name.")
@click.option("--file", metavar="PATH", help="Who ran, named or touched this file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each story.")
def blame(
    traces: tuple[Path, ...], alert: int | None, flow: str | None, file: str | None, as_json: bool
) -> None:
    """Tell the chain behind each alert: the tool call or root command, every fork and program with its
    arguments, whom it spoke with and how much, and what was done.

    Alerts about one process make one story. Ends with 1 when nothing is found, with 5 when a trace
    is damaged or partial: standard error says what is missing.
    """
    from agentwatch.collector import settle  # noqa: PLC0415
    from agentwatch.forensics.blame import Blame, Wanted  # noqa: PLC0415 - other verbs need no pipeline
    from agentwatch.forensics.story import Story  # noqa: PLC0415
    from agentwatch.replay import recordings  # noqa: PLC0415

    if (alert is not None) + (flow is not None) + (file is not None) > 1:
        raise click.UsageError("--alert, --flow and --file exclude each other")
    wanted = Wanted(alert, *_endpoint(flow or ""), file or "")
    settle()
    missing, told = Missing(), 0
    for number, recording in enumerate(recordings(traces)):
        found = Blame(wanted)
        story = Story(recording, found)
        story.tell()
        if number and not as_json:
            click.echo()
        told += _tell(story, found, as_json)
        missing.tell(story)
    if not told:
        click.echo(f"agentwatch: {_nothing(wanted)}", err=True)
    sys.exit(missing.code or (Exit.FINE if told or wanted == Wanted() else Exit.FAILURE))


def _endpoint(text: str) -> tuple[str, int | None]:
    """An address or name, and a port; IPv6 with a port in brackets."""
    try:
        return str(ipaddress.ip_address(text.strip("[]"))), None
    except ValueError:
        name, _, port = text.rpartition(":")
    if not name:
        return text, None
    if not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{port!r} is no port", param_hint="--flow")
    name = name.strip("[]")
    try:
        return str(ipaddress.ip_address(name)), int(port)
    except ValueError:
        return name, int(port)


def _nothing(wanted: Wanted) -> str:
    if wanted.alert is not None:
        return f"there is no alert {wanted.alert}"
    if wanted.address:
        return "nobody spoke with it, as far as is recorded"
    return "nobody touched it, as far as is recorded" if wanted.file else "there are no alerts"


def _tell(story: Story, found: Blame, as_json: bool) -> int:
    """Print the cases; returns how many."""
    for number, case in enumerate(found.cases):
        if as_json:
            click.echo(json.dumps(_plain(story, found, case), sort_keys=True))
            continue
        if number:
            click.echo()
        for line in _lines(found, case):
            click.echo(printable(line, LINE))
    for number, alert in found.homeless:
        title = alert["rule"]["title"]
        click.echo(f"agentwatch: alert {number}: {printable(title)}: its process is not known", err=True)
    if found.left_out:
        click.echo(f"agentwatch: {found.left_out} more are left out", err=True)
    return len(found.cases) + len(found.homeless)


def _lines(found: Blame, case: Case) -> Iterator[str]:
    from agentwatch.forensics.blame import tool_call  # noqa: PLC0415

    process = case.life.process
    numbers = ", ".join(str(number) for number, _ in case.alerts)
    subject = f"process {process.pid} of agent {case.life.agent}: {process.exe}"
    word = "alerts" if len(case.alerts) > 1 else "alert"
    yield f"{word} {numbers}: {subject}" if numbers else subject
    command, how = tool_call(case)
    yield f"tool call: {command}" + (f" ({how})" if how else "")
    if case.markers:
        yield "markers: " + ", ".join(f"{name}={value}" for name, value in case.markers.items())
    for step in found.steps(case):
        record = f" [record {step.record}]" if step.record else ""
        yield f"  {found.stamp(step.time)}  {step.pid or '':>7}  {step.text}{record}"


def _plain(story: Story, found: Blame, case: Case) -> dict[str, Any]:
    from agentwatch.forensics.blame import tool_call  # noqa: PLC0415

    command, how = tool_call(case)
    return {
        "trace": story.name,
        "agent": case.life.agent,
        "pid": case.life.process.pid,
        "exe": case.life.process.exe,
        "alerts": [number for number, _ in case.alerts],
        "markers": case.markers,
        "tool_call": {"command": command, "known_by": how},
        "steps": [_plain_step(found, step) for step in found.steps(case)],
        "missing": story.incomplete,
        "not_seen": story.unseen,
        "damaged": story.outcome.damaged,
    }


def _plain_step(found: Blame, step: Step) -> dict[str, Any]:
    return {
        "time": found.stamp(step.time),
        "kind": step.kind,
        "pid": step.pid,
        "record": step.record or None,
        "text": step.text,
        **({"facts": dict(step.facts)} if step.facts else {}),
    }
