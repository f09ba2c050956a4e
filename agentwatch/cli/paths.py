"""Where answers go. Light to import."""

from __future__ import annotations

from pathlib import Path

import click

STANDARD_OUTPUT = Path("-")


def trace_file(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A callback of options that name a new trace, whose further files are found by its name."""
    if path == STANDARD_OUTPUT:
        raise click.BadParameter("a trace goes to a file, not to standard output")
    return path
