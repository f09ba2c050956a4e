"""The verbs that ask the daemon: status, ps, alerts, events, pause, resume, kill, detach, save, mark."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.control import SOCKET, VARIABLE
from agentwatch.control.client import Client, NoDaemon
from agentwatch.control.protocol import ProtocolError
from agentwatch.markers import parse
from agentwatch.tui.text import byte_count, gpu_words, printable
from agentwatch.tui.tree import tree

Function = TypeVar("Function", bound=Callable[..., None])

_SOCKET = click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=SOCKET,
    envvar=VARIABLE,
    help=f"The daemon's control socket; {SOCKET} or ${VARIABLE} where it is not given.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@contextmanager
def _asking(path: Path, *, follow: bool = False) -> Iterator[Client]:
    """A connection; what goes wrong is told in a sentence. What is followed is waited for."""
    try:
        with Client(path, timeout=None) if follow else Client(path) as client:
            yield client
    except NoDaemon as error:
        raise Failure(f"{error}. Start one with: agentwatch daemon") from None
    except ProtocolError as error:
        code = Exit.PRIVILEGE if error.code == "denied" else Exit.FAILURE
        raise Failure(str(error), code) from None


def _print(line: str) -> None:
    click.echo(line)


def _json(item: Any) -> None:
    _print(json.dumps(item, sort_keys=True))


@click.command(short_help="Show the state of the daemon and its agents.")
@_SOCKET
@_JSON
def status(path: Path, as_json: bool) -> None:
    """Show what the daemon watches, what it has lost, and what it cannot see."""
    with _asking(path) as client:
        state, agents = client.ask("status"), client.ask("agents")
    if as_json:
        _json({**state, "agents": agents})
        return
    rules = state["rules"]
    _print(f"agentwatch {state['version']}, process {state['pid']}, since {_clock(state['since'])}")
    _print(f"rules    {rules['count']} in force ({rules['digest'][:12]})")
    _print(f"records  {state['records']:,}, {state['alerts']:,} alerts")
    lost = ", ".join(f"{count} {name}" for name, count in sorted(state["lost"].items()))
    _print(f"lost     {lost or 'nothing'}")
    for gap in state["coverage"]:
        _print(f"not seen {printable(gap['cost'])} ({gap['probe']})")
    if state["link"]["dropped"]:
        _print(f"dropped  {state['link']['dropped']:,} messages for sinks and clients that were too slow")
    for agent in agents:
        for limit in agent["limits"]:
            if limit["stands"] is None:
                _print(
                    f"no limit {limit['file']}={limit['wanted']} for {agent['name']}: its controller is not "
                    "enabled there"
                )
    for name, sink in sorted(state["sinks"].items()):
        _print(f"sink     {name}: {_account(sink)}")
    _print("")
    gpu = ("GPU",) if any(agent["gpu"] for agent in agents) else ()
    _table(
        ("AGENT", "STATE", "MODE", "PROCS", "FLOWS", "SENT", "MEMORY", *gpu, "RISK", "ALERTS", "LAST ALERT"),
        [
            (
                agent["name"],
                agent["state"],
                agent["mode"],
                str(agent["processes"]),
                str(agent["flows"]),
                byte_count(agent["bytes_out"]),
                "-" if agent["memory"] is None else byte_count(agent["memory"]),
                *((gpu_words(agent["gpu"]),) if gpu else ()),
                str(agent["risk"]),
                str(agent["alerts"]),
                printable(agent["last_alert"], 60),
            )
            for agent in agents
        ],
    )


def _account(sink: dict[str, Any]) -> str:
    parts = [f"{sink['sent']:,} sent"]
    parts += [f"{sink[name]:,} {name}" for name in ("queued", "dropped") if sink[name]]
    return ", ".join(parts) + (f"; {printable(sink['error'])}" if sink["error"] else "")


@click.command(short_help="Show the agents' processes as trees.")
@_SOCKET
@_JSON
@click.option("--all", "ended", is_flag=True, help="Those that have ended, too.")
@click.argument("agent", required=False)
def ps(path: Path, as_json: bool, ended: bool, agent: str | None) -> None:
    """Show the processes of AGENT, of all agents where none is named, as trees."""
    with _asking(path) as client:
        found = client.ask("ps", agent=agent)
        agents = client.ask("agents")
    rows = [row for row in found["processes"] if ended or row["status"] is None]
    if as_json:
        for row in rows:
            _json(row)
        return
    uses = any(row["gpu"] for row in rows)
    _table(
        ("AGENT", "PID", "USER", "STARTED", "", *(("GPU",) if uses else ()), "COMMAND"),
        [
            (
                row["agent"],
                str(row["pid"]),
                printable(row["user"], 16),
                _clock(row["start_time"])[11:],
                "!" if row["alerted"] else "" if row["status"] is None else "x",
                *((gpu_words(row["gpu"]),) if uses else ()),
                "  " * depth + printable(" ".join(row["argv"]) or row["exe"], 200),
            )
            for row, depth in tree(rows)
        ],
    )
    for one in agents:
        if one["gpu"] and agent in (None, one["name"]):
            _print(f"{one['name']} in all: {gpu_words(one['gpu'])}")
    if found["more"]:
        click.echo(f"{found['more']} more are not shown: name an agent", err=True)


@click.command(short_help="Show the latest alerts, or follow them.")
@_SOCKET
@_JSON
@click.option("-f", "--follow", is_flag=True, help="Go on with those that come.")
@click.option("-n", "--limit", type=click.IntRange(0), default=20, show_default=True)
@click.argument("agent", required=False)
def alerts(path: Path, as_json: bool, follow: bool, limit: int, agent: str | None) -> None:
    """Show the latest alerts of AGENT, of all agents where none is named."""
    show = _json if as_json else _alert_line
    with _asking(path, follow=follow) as client:
        if not follow:
            for alert in client.ask("alerts", agent=agent, limit=limit)["alerts"]:
                show(alert)
            return
        for item, dropped in _followed(client, "alerts", agent=agent, limit=limit):
            _say_dropped(dropped)
            for alert in item.get("alerts", [item]) if "rule" not in item else [item]:
                show(alert)


@click.command(short_help="Follow the events that rules see.")
@_SOCKET
@click.option("--category", help="Of this category alone: process_creation, flow, ...")
@click.argument("agent", required=False)
def events(path: Path, category: str | None, agent: str | None) -> None:
    """Follow the events of AGENT, of all agents where none is named, one JSON object a line."""
    with _asking(path, follow=True) as client:
        for item, dropped in _followed(client, "events", agent=agent, category=category):
            _say_dropped(dropped + item.pop("missed", 0))
            if "category" in item:
                _json(item)


def _followed(client: Client, verb: str, **arguments: Any) -> Iterator[tuple[Any, int]]:
    try:
        yield from client.follow(verb, **arguments)
    except KeyboardInterrupt:
        sys.exit(128 + 2)


def _say_dropped(dropped: int) -> None:
    if dropped:
        click.echo(f"agentwatch: {dropped} are missing here: they came faster than they were read", err=True)


_REASON = click.option("--reason", help="Why; it is kept with the act.")


def _act(path: Path, verb: str, agent: str, reason: str | None) -> None:
    with _asking(path) as client:
        done = client.ask(verb, agent=agent, reason=reason)
    took = done["took_us"] / 1000
    what = {"pause": "frozen", "resume": "resumed", "kill": "killed"}[verb]
    if done["result"] == "already":
        _print(f"{done['agent']} was {what} already, {done['processes']} processes")
        return
    left = f", {done['processes']} processes are left" if verb == "kill" and done["processes"] else ""
    of = "" if verb == "kill" else f", {done['processes']} processes"
    late = "" if done["settled"] else "; the kernel has not finished yet"
    _print(f"{done['agent']} is {what}{of}{left}, in {took:.1f} ms{late}")
    if left:
        sys.exit(Exit.FAILURE)


@click.command(short_help="Freeze an agent: every process of its tree.")
@_SOCKET
@_REASON
@click.argument("agent")
def pause(path: Path, agent: str, reason: str | None) -> None:
    """Freeze AGENT: every process of its tree stops where it is, until `resume` or `kill`."""
    _act(path, "pause", agent, reason)


@click.command(short_help="Let a frozen agent go on.")
@_SOCKET
@_REASON
@click.argument("agent")
def resume(path: Path, agent: str, reason: str | None) -> None:
    """Let AGENT go on where it was frozen."""
    _act(path, "resume", agent, reason)


@click.command(short_help="Kill an agent: every process of its tree.")
@_SOCKET
@_REASON
@click.argument("agent")
def kill(path: Path, agent: str, reason: str | None) -> None:
    """Kill AGENT: every process of its tree, frozen ones and those born meanwhile too."""
    _act(path, "kill", agent, reason)


@click.command(short_help="Watch an agent no longer.")
@_SOCKET
@_REASON
@click.argument("agent")
def detach(path: Path, agent: str, reason: str | None) -> None:
    """Watch AGENT no longer. It stays as it is, a frozen one frozen."""
    with _asking(path) as client:
        client.ask("detach", agent=agent, reason=reason)


@click.command(short_help="Write what an agent did last to a trace.")
@_SOCKET
@click.argument("agent")
def save(path: Path, agent: str) -> None:
    """Write what the flight recorder keeps of AGENT to an incident trace; prints where it is."""
    with _asking(path) as client:
        _print(printable(client.ask("save", agent=agent)["path"]))


@click.command(short_help="Set markers on an agent.")
@_SOCKET
@click.argument("agent")
@click.argument("markers", nargs=-1, required=True, metavar="NAME=VALUE...")
def mark(path: Path, agent: str, markers: tuple[str, ...]) -> None:
    """Set markers on AGENT, such as run=7: its alerts show them. An empty value takes one away."""
    try:
        wanted = parse("\n".join(markers))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with _asking(path) as client:
        client.ask("mark", agent=agent, markers=wanted)


def _clock(time: str) -> str:
    """An RFC 3339 time without fractions."""
    return time[:19].replace("T", " ") + " UTC"


def _alert_line(alert: dict[str, Any]) -> None:
    process, flow = alert["process"], alert["flow"]
    to = f" {flow['protocol']} {flow['remote']}" if flow and flow["remote"] else ""
    acted = alert["acted"] if alert["acted"] != "none" else f"({alert['response']})"
    subject = f"{process['exe'].rpartition('/')[2]}[{process['pid']}]"
    _print(
        printable(
            f"{_clock(alert['time'])[11:]}  {alert['agent']:<16} {alert['rule']['level']:<13} {acted:<8} "
            f"{alert['rule']['title']}: {subject}{to}"
        )
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        _print(line.rstrip())
