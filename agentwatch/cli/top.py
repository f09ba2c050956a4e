"""`agentwatch top`: see what agents do and stop them, on one screen; live or over a recording."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentwatch.cli.exits import Failure
from agentwatch.cli.options import rule_set
from agentwatch.control import SOCKET, VARIABLE

if TYPE_CHECKING:
    from agentwatch.tui.top.backend import Backend


@click.command(short_help="See what agents do, and stop them, on one screen.")
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=SOCKET,
    envvar=VARIABLE,
    help=f"The daemon's control socket; {SOCKET} or ${VARIABLE} where it is not given.",
)
@click.option(
    "--replay",
    "trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show a recording instead of what happens now: the same screens at any time of it.",
)
@click.option(
    "--rules",
    "rule_paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="With --replay: other Sigma rules than those recorded in the trace.",
)
@click.option("--readonly", is_flag=True, help="No key acts on an agent.")
def top(path: Path, trace: Path | None, rule_paths: tuple[Path, ...], readonly: bool) -> None:
    """Show agents, processes, connections, alerts, events, GPUs and files, and pause, resume or kill.

    `?` tells the keys. Over a recording nothing is acted on.
    """
    if rule_paths and trace is None:
        raise click.UsageError("--rules goes with --replay: the daemon has rules of its own")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("top needs a terminal; `agentwatch status` and `agentwatch alerts` do not")
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise Failure("top needs a terminal that moves its cursor; TERM says that this is none")
    from agentwatch.tui.top.app import Top  # noqa: PLC0415 - no other verb pays for Textual

    backend = _backend(path, trace, rule_paths)
    try:
        Top(backend, readonly=readonly).run(mouse=False)
    finally:
        backend.close()


def _backend(path: Path, trace: Path | None, rule_paths: tuple[Path, ...]) -> Backend:
    if trace is None:
        from agentwatch.tui.top.live import Live  # noqa: PLC0415

        return Live(path)
    from agentwatch.replay import Order, recordings  # noqa: PLC0415
    from agentwatch.tui.top.recorded import Recorded  # noqa: PLC0415

    (recording,) = recordings([trace])
    return Recorded(recording, Order(rule_set(rule_paths) if rule_paths else None))
