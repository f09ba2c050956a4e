"""`agentwatch doctor`: is this host ready?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from agentwatch.cli.exits import Exit
from agentwatch.doctor import DEGRADED, MISSING, OK, examine
from agentwatch.tui.text import printable

_MARKS = {OK: "ok", DEGRADED: "DEGRADED", MISSING: "MISSING"}


@click.command(short_help="Say whether this host is ready.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def doctor(as_json: bool) -> None:
    """Try every part that watching needs, and say what is missing and what that costs.

    Ends with 4 when something is missing without which nothing can be watched.
    """
    checks = []
    for check in examine():
        checks.append(check)
        if as_json:
            click.echo(json.dumps(asdict(check), sort_keys=True))
            continue
        click.echo(f"{_MARKS[check.state]:9} {printable(check.name):24} {printable(check.detail)}".rstrip())
        if check.remedy:
            click.echo(f"{'':9} {'':24} -> {check.remedy}")
    missing = [check.name for check in checks if check.state == MISSING]
    degraded = [check.name for check in checks if check.state == DEGRADED]
    if not as_json:
        click.echo(_verdict(missing, degraded))
    sys.exit(Exit.PRIVILEGE if missing else Exit.FINE)


def _verdict(missing: list[str], degraded: list[str]) -> str:
    if missing:
        return f"\nThis host is not ready: {', '.join(missing)}."
    if degraded:
        return f"\nThis host is ready, with less: {', '.join(degraded)}."
    return "\nThis host is ready."
