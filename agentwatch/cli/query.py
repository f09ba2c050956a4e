"""`agentwatch query`: SQL over traces."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentwatch.cli.exits import Failure
from agentwatch.cli.paths import STANDARD_OUTPUT
from agentwatch.cli.telling import Missing, jobs_option, open_output
from agentwatch.tui.text import printable

if TYPE_CHECKING:
    from pyarrow import RecordBatch

_FORMS = ("table", "json", "csv", "parquet")


@click.command(short_help="Ask traces and Parquet files in SQL.")
@click.argument("sql", metavar="SQL")
@click.argument("sources", nargs=-1, required=True, metavar="TRACE|PARQUET...")
@click.option("--format", "form", type=click.Choice(_FORMS), default="table", show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    default=STANDARD_OUTPUT,
    metavar="FILE",
    help="Where the answer goes; - is standard output.",
)
@click.option("--rows", default=1000, show_default=True, type=click.IntRange(1), help="Rows of a table.")
@click.option("--memory", default="1GB", show_default=True, help="Memory for the query.")
@click.option(
    "--timeout", default=60.0, show_default=True, type=click.FloatRange(0.001), help="Seconds for the query."
)
@click.option("--no-cache", is_flag=True, help="Keep nothing of traces for the next question.")
@jobs_option
def query(
    sql: str,
    sources: tuple[str, ...],
    form: str,
    output: Path,
    rows: int,
    memory: str,
    timeout: float,
    no_cache: bool,
    jobs: int,
) -> None:
    """Run one SELECT over the tables events, processes, flows, alerts, dns and traces.

    Sources are traces, which are converted first, or what `trace export --format parquet` wrote:
    files, folders, or URLs of object storage (where DuckDB has its extension httpfs). Nothing else
    is read. What traces were converted to is kept for the next question, for its owner alone. Needs
    the extra `query`.

    Ends with 5 when a trace is damaged or partial: standard error says what is missing.
    """
    if form == "parquet" and output == STANDARD_OUTPUT and sys.stdout.isatty():
        raise click.UsageError("--format parquet needs -o FILE")
    try:
        from agentwatch.forensics import query as queries  # noqa: PLC0415 - an extra
        from agentwatch.forensics.kept import default_folder  # noqa: PLC0415
    except ImportError as error:
        raise Failure(f"queries need DuckDB and PyArrow: pip install 'agentwatch[query]' ({error})") from None
    missing = Missing()
    try:
        limits = queries.Limits(memory, timeout)
        needs = queries.needs_of(sql, limits)
        with (
            queries.gathered(sources, needs, jobs, None if no_cache else default_folder()) as inputs,
            queries.Session(inputs, needs, limits) as session,
        ):
            for told in session.told():
                missing.say(told.name, told.missing, told.damaged)
            _write(session.run(sql), form, output, rows)
    except queries.QueryError as error:
        lines = (printable(line) for line in str(error).splitlines())
        raise Failure("\n".join(lines)) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failure(
            f"the answer cannot be made: {printable(f'{where}{error.strerror or error}')}"
        ) from None
    except OverflowError as error:  # a date can be too large for text
        raise Failure(f"the answer cannot be made: {error}") from None
    sys.exit(missing.code)


def _write(batches: Iterator[RecordBatch], form: str, output: Path, rows: int) -> None:
    from agentwatch.forensics import answer  # noqa: PLC0415 - an extra

    with open_output(output) as file:
        if form == "parquet":
            answer.write_parquet(batches, file)
        elif form == "json":
            answer.write_json(batches, file.write)
        elif form == "csv":
            answer.write_csv(batches, file.write)
        elif not answer.write_table(batches, file.write, rows):
            click.echo(f"agentwatch: only the first {rows} rows are shown (see --rows)", err=True)
