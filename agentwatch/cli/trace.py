"""`agentwatch trace`: what is in a trace, and is all of it there?"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from agentwatch.cli.cut import cut, merge
from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.paths import STANDARD_OUTPUT
from agentwatch.cli.telling import Missing, jobs_option, open_output
from agentwatch.sinks.alerts import timestamp
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import VERSION
from agentwatch.trace.sign import public_key_of
from agentwatch.trace.verify import Report, verify
from agentwatch.tui.text import byte_count, printable

_traces = click.argument(
    "traces", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True), metavar="TRACE..."
)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each trace.")


@click.group()
def trace() -> None:
    """Look at recorded traces. `-` reads standard input."""


trace.add_command(cut)
trace.add_command(merge)


@trace.command()
@_traces
@_json
def info(traces: tuple[Path, ...], as_json: bool) -> None:
    """Where and how traces were taken, what they hold, and what they lack.

    Ends with 5 when one is damaged.
    """
    whole = True
    for path in traces:
        found = _verified(path, [])
        whole &= found is not None and found.whole
        if found is None:
            continue
        if as_json:
            click.echo(json.dumps(_plain(path, found), sort_keys=True))
            continue
        for name, value in _lines(path, found):
            click.echo(f"{name:9} {printable(value)}".rstrip())
    sys.exit(Exit.FINE if whole else Exit.DAMAGED)


@trace.command("verify")
@_traces
@click.option(
    "--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM of who must have signed."
)
@_json
def verify_command(traces: tuple[Path, ...], key: Path | None, as_json: bool) -> None:
    """Check every byte of traces: digests, chain, content, signatures.

    Files of one recording, given in order, are checked to follow each other. Ends with 5 when
    something is missing or changed, and says what.
    """
    trusted = _public_keys(key)
    whole, before = True, None
    for path in traces:
        found = _verified(path, trusted)
        if found is None:
            whole, before = False, None
            continue
        torn = before is not None and _torn(before, found)
        whole &= found.whole and not torn
        before = found
        if as_json:
            click.echo(json.dumps({**_plain(path, found), "follows": not torn}, sort_keys=True))
        else:
            _tell(path, found, torn)
    sys.exit(Exit.FINE if whole else Exit.DAMAGED)


_FORMATS = ("parquet", "jsonl", "pcapng", "perfetto")


@trace.command()
@_traces
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True, help="What to write.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    required=True,
    metavar="DIR|FILE",
    help="A folder for parquet, else a file; - writes to standard output.",
)
def export(traces: tuple[Path, ...], form: str, output: Path) -> None:
    """Write traces in the formats of other tools.

    parquet: tables events, processes, flows, alerts, dns and traces, partitioned by date and host
    (needs the extra `query`). jsonl: the same rows as JSON lines. pcapng: the captured payloads, for
    Wireshark. perfetto: the process tree, for ui.perfetto.dev and chrome://tracing.

    Ends with 5 when a trace is damaged or partial: standard error says what is missing.
    """
    if form == "parquet" and output == STANDARD_OUTPUT:
        raise click.UsageError("--format parquet writes a folder: -o DIR")
    from agentwatch.collector import settle  # noqa: PLC0415
    from agentwatch.forensics import export as formats  # noqa: PLC0415 - other verbs need no pipeline
    from agentwatch.replay import recordings  # noqa: PLC0415

    settle()
    work, missing = recordings(traces), Missing()
    try:
        if form == "parquet":
            for recording in work:
                missing.tell(formats.to_parquet(recording, output))
            sys.exit(missing.code)
        write_all = {"jsonl": formats.to_lines, "pcapng": formats.to_pcapng, "perfetto": formats.to_perfetto}
        with open_output(output) as file:
            for story in write_all[form](work, file.write):
                missing.tell(story)
    except ImportError as error:
        raise Failure(f"Parquet needs PyArrow: pip install 'agentwatch[query]' ({error})") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"{output} cannot be written: {error.strerror or error}") from None
    sys.exit(missing.code)


@trace.command()
@click.argument(
    "traces", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="TRACE..."
)
@jobs_option
def prepare(traces: tuple[Path, ...], jobs: int) -> None:
    """Convert traces now for later queries, which then answer at once.

    For a timer, over traces that are complete. What is made is kept as `query` keeps it, for its owner
    alone. Needs the extra `query`.

    Ends with 5 when a trace is damaged or partial: standard error says what is missing.
    """
    try:
        from agentwatch.forensics import query as queries  # noqa: PLC0415 - an extra
        from agentwatch.forensics.kept import default_folder  # noqa: PLC0415
    except ImportError as error:
        raise Failure(f"this needs DuckDB and PyArrow: pip install 'agentwatch[query]' ({error})") from None
    missing = Missing()
    try:
        for told in queries.prepare(traces, jobs, default_folder()):
            missing.say(told.name, told.missing, told.damaged)
    except queries.QueryError as error:
        raise Failure(printable(str(error))) from None
    except OSError as error:
        raise Failure(f"tables cannot be kept: {printable(str(error))}") from None
    sys.exit(missing.code)


def _verified(path: Path, trusted: list[bytes]) -> Report | None:
    """None, said on standard error, where it is no trace that can be read."""
    try:
        return verify("-" if str(path) == "-" else path, trusted)
    except TraceError as error:
        click.echo(f"agentwatch: {printable(str(path))}: {printable(str(error))}", err=True)
        return None


def _public_keys(path: Path | None) -> list[bytes]:
    try:
        return [] if path is None else [public_key_of(path.read_bytes())]
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    except TraceError as error:
        raise Failure(f"{path}: {error}") from None


def _torn(before: Report, found: Report) -> bool:
    """Whether a file says that it continues the one before it, and does not."""
    return found.header.segment == before.header.segment + 1 and not found.follows(before)


def _tell(path: Path, found: Report, torn: bool) -> None:
    verdict = "intact" if found.whole and not torn else "DAMAGED"
    click.echo(f"{printable(str(path))}: {verdict}: {_amount(found)}; {_signed(found)}")
    if torn:
        click.echo("  does not follow the file before it: something is missing between them")
    for damage in found.damage:
        click.echo(f"  {damage}")


def _amount(found: Report) -> str:
    return f"{found.records} records in {found.rounds} rounds, {byte_count(found.stored_bytes)}"


def _signed(found: Report) -> str:
    if not found.signatures:
        return "not signed"
    if found.bad_signatures:
        return f"{found.bad_signatures} of {found.signatures} signatures are not good"
    return f"signed by {', '.join(sorted(key.hex() for key in found.signers))}"


def _lines(path: Path, found: Report) -> Iterator[tuple[str, str]]:
    header = found.header
    yield "trace", str(path)
    if found.records:
        first, last = (timestamp(time, header.clock_offset) for time in (found.first_time, found.last_time))
        yield "from", first
        yield "to", f"{last} ({(found.last_time - found.first_time) / 1e9:.3f} s)"
    yield "host", f"{header.host}, kernel {header.kernel}, boot {header.boot_id}"
    yield "agents", f"{', '.join(header.agents)} ({header.mode})"
    if (why := header.extra.get("incident")) and isinstance(why, dict):
        origin = (
            f"goes on from {why['continues']}" if "continues" in why else f"saved by {why.get('saved_by')}"
        )
        cause = why.get("title") or origin
        yield "incident", f"{cause}; begins midway, with what was known then"
    for kind in ("cut", "merge"):
        if kind in header.extra:
            yield f"{kind} of", ", ".join(_origins(header.extra[kind]))
    yield "command", shlex.join(header.command)
    yield "made by", f"agentwatch {header.release}, format {VERSION}, schema {header.schema_version}"
    yield "rules", header.rules_digest
    yield "not seen", ", ".join(sorted(header.coverage)) or "nothing: all probes were there"
    yield "holds", _amount(found)
    yield "signed", _signed(found)
    yield "damage", "" if found.damage else "none"
    for damage in found.damage:
        yield "", str(damage)


def _origins(told: object) -> Iterator[str]:
    """Names of the files that a trace was made from, as far as it tells them."""
    files = told.get("from") if isinstance(told, dict) else told
    for one in files if isinstance(files, list) else ():
        yield str(one.get("file")) if isinstance(one, dict) else "?"


_FIGURES = (
    *("rounds", "records", "stored_bytes", "first_time", "last_time"),
    *("closed", "signatures", "bad_signatures", "signed_through"),
)


def _plain(path: Path, found: Report) -> dict[str, Any]:
    header = asdict(found.header)
    del header["schema"], header["layouts"]
    return {
        "trace": str(path),
        "whole": found.whole,
        "header": _jsonable(header),
        "damage": [{**asdict(damage), "text": str(damage)} for damage in found.damage],
        "digest": found.digest.hex(),
        "signers": sorted(key.hex() for key in found.signers),
        **{name: getattr(found, name) for name in _FIGURES},
    }


def _jsonable(value: object) -> object:
    """Bytes as hexadecimal digits, and keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
