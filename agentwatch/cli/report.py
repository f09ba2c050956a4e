"""`agentwatch report`: a recording as one page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.telling import Missing, open_output
from agentwatch.tui.text import printable


@click.command(short_help="Make one page of a recording.")
@click.argument("trace", type=click.Path(path_type=Path, allow_dash=True), metavar="TRACE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    metavar="FILE",
    help="Where the page goes; - writes to standard output.",
)
def report(trace: Path, output: Path) -> None:
    """Write one self-contained HTML page about a recording, to hand to someone who was not there.

    It holds a timeline, the story behind each alert with its evidence, processes, flows and names,
    what is missing, and hashes. It needs no network and runs no script. Treat it as confidential, as
    the trace.

    Ends with 5 when the trace is damaged or partial: the page and standard error say what is missing.
    """
    from agentwatch.collector import settle  # noqa: PLC0415
    from agentwatch.forensics.report import Page  # noqa: PLC0415 - other verbs need no pipeline
    from agentwatch.forensics.story import Story  # noqa: PLC0415
    from agentwatch.replay import recordings  # noqa: PLC0415

    settle()
    page, missing = Page(), Missing()
    story = Story(recordings([trace])[0], *page.listeners)
    story.tell()
    missing.tell(story)
    if story.header is None:
        raise Failure(f"{printable(str(trace))}: there is nothing to report", Exit.DAMAGED)
    try:
        with open_output(output) as file:
            for part in page.parts(story):
                file.write(part.encode("utf-8", "backslashreplace"))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"{output} cannot be written: {error.strerror or error}") from None
    sys.exit(missing.code)
