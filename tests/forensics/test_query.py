"""Queries: over traces and what was exported, shut in, within limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb", reason="DuckDB is not installed (the extra query)")
pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra query)")

import pyarrow as pa
import pyarrow.parquet as pq

from agentwatch.forensics.export import to_parquet
from agentwatch.forensics.query import Limits, QueryError, Session, gathered, needs_of
from agentwatch.forensics.tables import ALL, TABLES, Depth
from tests.forensics.samples import DEMO, damaged, incident, recorded


def ask(sql: str, *sources: str | Path, limits: Limits | None = None) -> list[dict[str, Any]]:
    needs = needs_of(sql, limits or Limits())
    with (
        gathered([str(source) for source in sources], needs, 1) as inputs,
        Session(inputs, needs, limits or Limits()) as session,
    ):
        return [row for batch in session.run(sql) for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    to_parquet((DEMO,), folder)
    return folder


@pytest.mark.parametrize("source", ["trace", "folder", "file"])
def test_who_opened_the_tunnel(source: str, exported: Path) -> None:
    (file,) = (exported / "flows").rglob("*.parquet")
    sources = {"trace": DEMO, "folder": exported, "file": file}
    (row,) = ask("SELECT exe, bytes_out FROM flows WHERE destination_port = 22", sources[source])
    assert row["exe"] == "/usr/bin/ssh" and row["bytes_out"] > 0


def test_joins_across_tables_and_hosts(tmp_path: Path, exported: Path) -> None:
    sql = """
        SELECT title, parent_pid, host FROM alerts a
        JOIN processes USING (trace, pid, process_start, host) ORDER BY a.time"""
    rows = ask(sql, recorded(tmp_path, incident()), exported)
    assert len(rows) == 7
    assert rows[0] == {"title": "Connect to port 1", "parent_pid": 101, "host": "train7"}


def test_tables_that_no_trace_has_rows_for_are_empty(exported: Path) -> None:
    assert ask("SELECT count(*) AS n FROM dns", exported) == [{"n": 0}]
    assert ask("SELECT * FROM dns", DEMO) == []


def test_only_what_is_named_is_converted() -> None:
    sql = "WITH x AS (SELECT pid FROM Flows) SELECT * FROM x WHERE EXISTS (SELECT 1 FROM alerts)"
    needs = needs_of(sql, Limits())
    assert needs == {"flows": Depth.RECORDS, "alerts": Depth.JUDGED}
    with gathered([str(DEMO)], needs, 1) as inputs:
        assert {name for name, files in inputs.files.items() if files} == {"flows", "alerts", "traces"}


@pytest.mark.parametrize(
    ("sql", "needs"),
    [
        ("SELECT count(*) FROM processes", {"processes": Depth.RECORDS}),
        ("SELECT destination_ip, sum(bytes_out) FROM flows GROUP BY ALL", {"flows": Depth.RECORDS}),
        ("SELECT pid FROM flows WHERE protocol = 'ssh'", {"flows": Depth.RECOGNISED}),
        ("SELECT pid FROM flows ORDER BY hostname LIMIT 0", {"flows": Depth.RECOGNISED}),
        ("SELECT f FROM flows f WHERE false", {"flows": Depth.EVENTS}),
        ("FROM query('SELECT pid FROM flows')", {"flows": Depth.RECORDS}),
        ("SELECT COLUMNS('b.*') FROM flows", {"flows": Depth.EVENTS}),
        ("SELECT * FROM (PIVOT flows ON protocol IN ('ssh') USING count(*))", {"flows": Depth.EVENTS}),
        ("SELECT count(*) FROM events", {"events": Depth.EVENTS}),
        ("SELECT fields->>'Kind' FROM events", {"events": Depth.DETAILS}),
        ("SELECT (SELECT max(alerts) FROM traces t WHERE t.trace = d.trace) FROM dns d",
         {"traces": Depth.JUDGED, "dns": Depth.RECORDS}),
        ("WITH alerts AS (SELECT 1 AS one) SELECT one FROM alerts", {}),
        ("SELECT 1", {}),
    ],
)  # fmt: skip
def test_what_a_question_needs(sql: str, needs: dict[str, Depth]) -> None:
    assert needs_of(sql, Limits()) == needs


def test_a_statement_may_be_long_and_its_plan_not_too_deep() -> None:
    assert needs_of("SELECT pid + " + " + ".join("1" * 500) + " FROM flows", Limits()) == {"flows": 0}
    sql = "SELECT " + " + ".join(f"(SELECT count(*) FROM flows WHERE pid = {n})" for n in range(600))
    with pytest.raises(QueryError, match="nested too deeply"):
        needs_of(sql, Limits())


@pytest.mark.parametrize(
    "sql",
    [
        "COPY flows TO '/tmp/out.csv'",
        "SELECT 1; SELECT 2",
        "DROP TABLE flows",
        "CREATE TABLE x AS SELECT 1",
        "SET enable_external_access = true",
        "ATTACH '/tmp/other.db'",
        "INSTALL httpfs",
        "PRAGMA version",
        "EXPLAIN ANALYZE SELECT 1",
        "",
        "SELECT",
    ],
)
def test_anything_but_one_select_is_refused(sql: str) -> None:
    with pytest.raises(QueryError):
        needs_of(sql, Limits())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('{elsewhere}')",
        "SELECT * FROM query('COPY flows TO ''/tmp/out.csv''')",
        "SELECT * FROM parquet_metadata('{elsewhere}')",
    ],
)
def test_no_other_file_is_read(sql: str, exported: Path, tmp_path: Path) -> None:
    to_parquet((DEMO,), tmp_path, {"alerts": Depth.JUDGED})
    (elsewhere,) = (tmp_path / "alerts").rglob("*.parquet")
    with pytest.raises(QueryError):
        ask(sql.format(elsewhere=elsewhere), exported)


def test_time_is_limited(exported: Path) -> None:
    began = time.monotonic()
    with pytest.raises(QueryError, match="no answer within"):
        ask("SELECT count(*) FROM range(1000000000000) a", exported, limits=Limits(seconds=0.2))
    assert time.monotonic() - began < 30


def test_memory_is_limited(exported: Path) -> None:
    sql = "SELECT list(range) AS l FROM range(100000000)"
    with pytest.raises(QueryError, match=r"[Mm]emory"):
        ask(sql, exported, limits=Limits(memory="50MB"))


def test_what_is_missing_is_known_from_traces_and_from_exports(tmp_path: Path) -> None:
    path = damaged(recorded(tmp_path, incident()))
    to_parquet((path,), tmp_path / "out")
    for source in (path, tmp_path / "out"):
        with (
            gathered([str(source)], {}, 1) as inputs,
            Session(inputs, {}, Limits()) as session,
        ):
            (told,) = session.told()
            assert told.damaged and told.missing


def test_traces_are_converted_side_by_side_to_the_same(tmp_path: Path) -> None:
    sources = [str(DEMO), str(recorded(tmp_path, incident()))]
    counts = []
    for jobs in (1, 2):
        with gathered(sources, {"flows": Depth.RECORDS}, jobs) as inputs:
            counts.append(len(inputs.files["flows"]))
            assert [told.name for told in inputs.told] == sources
    assert counts == [2, 2]


def test_files_that_only_look_like_an_export_are_refused_or_read(tmp_path: Path) -> None:
    (tmp_path / "traces.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(QueryError):
        ask("SELECT * FROM traces", tmp_path)
    pq.write_table(
        pa.table({"file": [1], "missing": [None], "not_seen": [[]], "damaged": ["true"]}),
        tmp_path / "traces.parquet",
    )
    with gathered([str(tmp_path)], {}, 1) as inputs, Session(inputs, {}, Limits()) as session:
        (told,) = session.told()
        assert (told.name, told.missing, told.damaged) == ("1", (), True)


@pytest.mark.parametrize("name", ["empty", "x.parquet", "other/x.parquet"])
def test_sources_that_are_none_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"") if name.endswith("parquet") else path.mkdir()
    with pytest.raises(QueryError, match=name):
        ask("SELECT * FROM flows", path)


def test_every_table_has_its_columns_and_its_partitions(exported: Path) -> None:
    for name, columns in TABLES.items():
        needs = needs_of(f"SELECT * FROM {name}", Limits())
        assert needs == {name: ALL[name]}
        with gathered([str(exported)], needs, 1) as inputs, Session(inputs, needs, Limits()) as session:
            first: Iterator[Any] = session.run(f"SELECT * FROM {name} LIMIT 1")
            assert next(first).schema.names == [*(column.name for column in columns), "date", "host"]


@pytest.fixture(scope="module")
def bucket(exported: Path) -> Iterator[str]:
    """The URL of the export in an S3 server on this host."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed (an S3 server)")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_REGION", "us-east-1")
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="evidence")
        for file in exported.rglob("*.parquet"):
            client.upload_file(str(file), "evidence", f"tables/{file.relative_to(exported)}")
        yield "s3://evidence/tables"
    server.stop()


def test_object_storage(bucket: str, exported: Path) -> None:
    try:
        (row,) = ask("SELECT exe, bytes_out, host FROM flows WHERE destination_port = 22", bucket)
    except QueryError as error:
        if "neither is installed" in str(error):
            pytest.skip(str(error))
        raise
    assert row["exe"] == "/usr/bin/ssh" and row["host"] == "train7"
    assert ask("SELECT count(*) AS n FROM dns", bucket) == [{"n": 0}]
    (both,) = ask("SELECT count(DISTINCT trace) AS n, count(*) AS rows FROM flows", bucket, exported)
    assert both["n"] == 1 and both["rows"] % 2 == 0
    for sql in (
        "SELECT * FROM read_parquet('{}/alerts/**/*.parquet')",
        "SELECT * FROM glob('{}/**')",
        "SELECT * FROM read_text('/etc/passwd')",
    ):
        with pytest.raises(QueryError):
            ask(f"SELECT (SELECT count(*) FROM flows), * FROM ({sql.format(bucket)})", bucket)


@pytest.mark.parametrize("url", ["s3://nowhere/tables", "s3://evidence/tables/flows/x.parquet"])
def test_object_storage_that_is_not_there_is_a_sentence(bucket: str, url: str) -> None:
    with pytest.raises(QueryError) as found:
        ask("SELECT * FROM flows", url)
    assert str(found.value)


def test_a_trace_in_object_storage_is_refused() -> None:
    with pytest.raises(QueryError, match="from files alone"):
        ask("SELECT * FROM flows", "s3://evidence/run.awt")
