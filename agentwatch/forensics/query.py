"""SQL over traces and Parquet files: DuckDB, shut in.

The statement is one SELECT, parsed by DuckDB itself; it reads the files it was given and no
others, changes no setting, loads no extension and writes nothing. Memory, time and disk for
intermediate results are bounded.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow as pa

from agentwatch.collector import settle
from agentwatch.forensics import kept
from agentwatch.forensics.parquet import schema_of
from agentwatch.forensics.tables import ALL, TABLES, Depth, depth_of
from agentwatch.replay import Recording, recordings

SPILLED_MAX = "20GB"  # on disk, for what does not fit in memory
BATCH_ROWS = 4096
_PARTITIONED = "union_by_name = true, hive_partitioning = true, hive_types = {'date': DATE, 'host': VARCHAR}"
_REMOTE = ("s3", "gs", "gcs", "r2", "http", "https")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL")


class QueryError(Exception):
    """A query that cannot be answered; its text is meant for the user."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`memory` in DuckDB's words (`1GB`), `seconds` for the statement."""

    memory: str = "1GB"
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a trace lacks: its name, sentences, and whether that is damage."""

    name: str
    missing: tuple[str, ...]
    damaged: bool


@dataclass(slots=True)
class Inputs:
    """Parquet files by table, and what is known to be missing from the traces behind them."""

    files: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TABLES})
    told: list[Told] = field(default_factory=list)


Needs = Mapping[str, Depth]
"""Tables that a question looks at, and how deep their columns lie that it looks at."""


def needs_of(sql: str, limits: Limits) -> Needs:
    """What a statement needs, as DuckDB plans it over empty tables.

    Raises `QueryError` for anything but one SELECT over these tables and their columns.
    """
    with duckdb.connect(":memory:") as session, _in_time(session, limits), _as_sentence():
        select = [one.type for one in session.extract_statements(sql)] == [duckdb.StatementType.SELECT]
        errors = session.execute("SELECT json_serialize_sql($sql)->>'error'", {"sql": sql}).fetchall()
        if not select or errors != [("false",)]:
            raise QueryError("a query is one SELECT: nothing else is allowed")
        for name in TABLES:
            session.register("rows", _no_rows(name))
            session.execute(f"CREATE TABLE {name} AS FROM rows")
            session.unregister("rows")
        # What is found out from tables being empty, or is moved about, hides what is looked at.
        optimizers = session.execute("SELECT name FROM duckdb_optimizers()").fetchall()
        others = ",".join(name for (name,) in optimizers if name != "unused_columns")
        session.execute("SET disabled_optimizers = $others", {"others": others})
        session.execute("SET memory_limit = $memory", {"memory": limits.memory})
        session.execute("SET enable_external_access = false")
        session.execute("SET lock_configuration = true")
        plan = session.execute(f"EXPLAIN (FORMAT json) {sql}").fetchall()
    try:
        scans = [*chain(*(_scans(json.loads(text)) for _, text in plan))]
    except RecursionError:
        raise QueryError("the statement is nested too deeply") from None
    needs: dict[str, Depth] = {}
    for table, columns in scans:
        needs[table] = max(needs.get(table, Depth.RECORDS), depth_of(table, columns))
    return needs


def _scans(plan: Any) -> Iterator[tuple[str, list[str]]]:
    """Tables and columns that a plan reads."""
    ahead = [plan]
    while ahead:
        node = ahead.pop()
        if isinstance(node, list):
            ahead += node
            continue
        info = node.get("extra_info", {})
        table = str(info.get("Table", "")).rpartition(".")[2]
        if table in TABLES:
            columns = info.get("Projections", [])
            yield table, [columns] if isinstance(columns, str) else columns
        ahead += node.get("children", [])


@contextmanager
def _in_time(session: duckdb.DuckDBPyConnection, limits: Limits) -> Iterator[None]:
    """Interrupt what takes too long, as `QueryError`."""

    def interrupt() -> None:
        with suppress(duckdb.Error):
            session.interrupt()

    timer = Timer(limits.seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException:
        raise QueryError(f"no answer within {limits.seconds:g} s (see --timeout)") from None
    finally:
        timer.cancel()


@contextmanager
def _as_sentence() -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        raise
    except (duckdb.Error, pa.ArrowException) as error:
        raise QueryError(str(error)) from None


@contextmanager
def gathered(sources: Sequence[str], needs: Needs, jobs: int, keep: Path | None = None) -> Iterator[Inputs]:
    """The Parquet files of these sources. Traces are converted first, as far as is needed.

    A source is a trace, a Parquet file, a folder of `trace export`, or the URL of one of the
    latter two. What traces are converted to is kept in the folder `keep` for the next question.
    Raises `QueryError`.
    """
    inputs = Inputs()
    traces = []
    for source in sources:
        if urlsplit(source).scheme in _REMOTE:
            _add_remote(inputs, source)
        elif Path(source).is_dir() or source.endswith(".parquet"):
            _add_local(inputs, Path(source))
        else:
            traces.append(Path(source))
    work = recordings(traces)
    needs = {**needs, "traces": max(needs.values(), default=Depth.RECORDS)}
    with ExitStack() as stack:
        folders = [stack.enter_context(_folder(recording, keep)) for recording in work]
        inputs.told += _convert(work, folders, needs, jobs)
        for folder in folders:
            for name, depth in needs.items():
                found = kept.table(folder, name, depth)
                inputs.files[name] += map(str, sorted(found.rglob("*.parquet"))) if found else ()
        if keep is not None and work:
            kept.prune(keep)
        yield inputs


def prepare(traces: Sequence[Path], jobs: int, keep: Path) -> list[Told]:
    """Convert traces to all tables before anybody asks, and keep these. Raises `QueryError`."""
    if not kept.usable(keep):
        raise QueryError(f"{keep} is not, or cannot be made, a folder that is yours alone")
    with gathered([*map(str, traces)], ALL, jobs, keep) as inputs, Session(inputs, (), Limits()) as session:
        return session.told()


@contextmanager
def _folder(recording: Recording, keep: Path | None) -> Iterator[Path]:
    """Where a recording's tables are, or are to be made."""
    with ExitStack() as stack:
        found = None if keep is None else stack.enter_context(kept.place(recording, keep))
        if found is None:
            found = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentwatch-query-")))
        yield found.resolve()


def _convert(work: list[Recording], folders: list[Path], needs: Needs, jobs: int) -> Iterator[Told]:
    """Each recording's tables, side by side; nothing is pickled but names and sentences."""
    lacking = [pair for pair in zip(work, folders, strict=True) if kept.lacking(pair[1], needs)]
    if len(lacking) < 2 or jobs < 2:
        yield from (_told(recording, folder, needs) for recording, folder in lacking)
        return
    with ProcessPoolExecutor(min(jobs, len(lacking)), get_context("spawn"), settle) as pool:
        yield from pool.map(_told, *zip(*lacking, strict=True), [needs] * len(lacking))


def _told(recording: Recording, folder: Path, needs: Needs) -> Told:
    account = kept.fill(recording, folder, needs)
    return Told(account.name, tuple(account.incomplete + account.unseen), account.outcome.damaged)


def _add_local(inputs: Inputs, path: Path) -> None:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    found = [file for file in files if not file.name.startswith(".")]
    for file in found:
        inputs.files[_table_of(file.parts, str(file))].append(str(file.resolve()))
    if not found:
        raise QueryError(f"{path} holds no Parquet files")


def _add_remote(inputs: Inputs, url: str) -> None:
    """One file, or a folder of which every table is looked for."""
    if url.endswith((".awt", ".trace")):
        raise QueryError(f"{url}: traces are read from files alone; of URLs, what was exported from them")
    if url.endswith(".parquet"):
        inputs.files[_table_of(tuple(url.split("/")), url)].append(url)
        return
    for name, files in inputs.files.items():
        files.append(f"{url.rstrip('/')}/{name}/**/*.parquet")


def _table_of(parts: Sequence[str], name: str) -> str:
    """The table that a file belongs to, by the folders that it lies in, or by its own name."""
    for part in reversed(parts):
        if (table := part.split(".")[0]) in TABLES:
            return table
    raise QueryError(f"{name}: no folder above it is named after a table ({', '.join(TABLES)})")


class Session:
    """DuckDB over the files of `inputs`. What it needs is opened first, then everything is shut."""

    def __init__(self, inputs: Inputs, wanted: Collection[str], limits: Limits) -> None:
        self._limits = limits
        self._spill = tempfile.TemporaryDirectory(prefix="agentwatch-query-")
        self._duck = duckdb.connect(":memory:")
        self._inputs = inputs
        try:
            self._open(wanted)
        except duckdb.Error as error:
            self.close()
            raise QueryError(str(error)) from None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._duck.close()
        self._spill.cleanup()

    def _open(self, wanted: Collection[str]) -> None:
        self._set("autoinstall_known_extensions", False)
        self._set("autoload_known_extensions", False)
        self._set("memory_limit", self._limits.memory)
        self._set("temp_directory", self._spill.name)
        self._set("max_temp_directory_size", SPILLED_MAX)
        self._set("TimeZone", "UTC")
        files = {name: self._inputs.files[name] for name in {*wanted, "traces"}}
        schemes = {urlsplit(file).scheme for found in files.values() for file in found}.intersection(_REMOTE)
        if schemes:
            self._go_remote(schemes)
            files = {name: [*self._expanded(found)] for name, found in files.items()}
        self._duck.execute("SET allowed_paths = $files", {"files": [*chain(*files.values())]})
        for name, found in files.items():
            self._view(name, found)
        self._set("enable_external_access", False)
        self._set("lock_configuration", True)

    def _set(self, name: str, value: object) -> None:
        self._duck.execute(f"SET {name} = $value", {"value": value})

    def _go_remote(self, schemes: Collection[str]) -> None:
        """Object storage and web servers: DuckDB's extension httpfs if it is installed, else s3fs."""
        try:
            self._duck.execute("LOAD httpfs")
        except duckdb.Error:
            self._duck.register_filesystem(_bucket(schemes, os.environ))
            return
        if any(os.environ.get(name) for name in _KEYS):
            self._duck.execute(_secret(os.environ))

    def _expanded(self, files: Sequence[str]) -> Iterator[str]:
        """What patterns stand for."""
        for file in files:
            if "*" in file:
                rows = self._duck.execute("SELECT file FROM glob($file) ORDER BY file", {"file": file})
                yield from (str(name) for (name,) in rows.fetchall())
            else:
                yield file

    def _view(self, name: str, files: Sequence[str]) -> None:
        """A view of this table's files, empty where there are none."""
        if not files:
            self._duck.register(name, _no_rows(name))
            return
        listed = ", ".join(_quoted(file) for file in files)
        options = "union_by_name = true, hive_partitioning = false"
        if all("/host=" in file for file in files):
            options = _PARTITIONED
        self._duck.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{listed}], {options})")

    def told(self) -> list[Told]:
        """What is missing from the traces: as the tables tell, and of those that could not be read."""
        sql = "SELECT file::VARCHAR, (missing || not_seen)::VARCHAR[], damaged::BOOLEAN FROM traces"
        with _as_sentence():
            rows = self._duck.execute(sql).fetchall()
        told = [Told(str(file), tuple(map(str, why or ())), bool(bad)) for file, why, bad in rows]
        names = {one.name for one in told}
        return [one for one in self._inputs.told if one.name not in names] + told

    def run(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The answer in batches, at least one. Raises `QueryError`, also when time is up."""
        with _in_time(self._duck, self._limits), _as_sentence():
            reader = self._duck.sql(sql).to_arrow_reader(BATCH_ROWS)
            yield _empty(reader.schema)
            yield from reader


def _no_rows(name: str) -> pa.Table:
    columns = schema_of(TABLES[name]).append(pa.field("date", pa.date32()))
    return columns.append(pa.field("host", pa.string())).empty_table()


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], one.type) for one in schema], schema=schema)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _bucket(schemes: Collection[str], environment: Mapping[str, str]) -> Any:
    """S3 through s3fs, with credentials from the usual variables or wherever botocore finds some."""
    if set(schemes) != {"s3"}:
        raise QueryError("URLs other than s3:// need DuckDB's extension httpfs, which is not installed")
    try:
        s3fs = import_module("s3fs")  # rarely there
    except ImportError:
        raise QueryError(
            "s3:// needs DuckDB's extension httpfs (INSTALL httpfs) or the package s3fs: neither is installed"
        ) from None
    key, secret, token, region, endpoint = (environment.get(name) or None for name in _KEYS)
    return s3fs.S3FileSystem(
        key=key, secret=secret, token=token, endpoint_url=endpoint,
        client_kwargs={"region_name": region} if region else {}, skip_instance_cache=True,
    )  # fmt: skip


def _secret(environment: Mapping[str, str]) -> str:
    """Credentials for object storage from the usual variables, for this session only."""
    key, secret, token, region, endpoint = (environment.get(name, "") for name in _KEYS)
    given: dict[str, Any] = {"KEY_ID": key, "SECRET": secret, "SESSION_TOKEN": token, "REGION": region}
    if endpoint:
        parts = urlsplit(endpoint)
        given |= {
            "ENDPOINT": parts.netloc,
            "USE_SSL": str(parts.scheme == "https").lower(),
            "URL_STYLE": "path",
        }
    words = "".join(f", {name} {_quoted(value)}" for name, value in given.items() if value)
    return f"CREATE SECRET (TYPE s3{words})"
