"""Parquet folders: partitioned, replaced when written again, and indifferent to absurd values."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra query)")
import pyarrow.parquet as pq

from agentwatch.forensics import parquet as module
from agentwatch.forensics.export import to_parquet
from agentwatch.forensics.parquet import ParquetFolder, partition
from agentwatch.forensics.tables import TABLES, Depth
from tests.forensics.samples import DEMO, HOSTILE, incident, recorded

DAY = 86_400_000_000_000


def test_a_table_is_a_folder_by_date_and_host(tmp_path: Path) -> None:
    to_parquet((DEMO,), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*TABLES} - {"dns"}
    (file,) = (tmp_path / "flows").rglob("*.parquet")
    assert file.parent.name == "host=train7" and file.parent.parent.name == "date=2026-11-24"
    assert file.stat().st_mode & 0o077 == 0
    table = pq.read_table(file, partitioning=None)
    assert table.column_names == [column.name for column in TABLES["flows"]]
    assert set(table["destination_port"].to_pylist()) >= {22, 80, 3333}
    assert table.schema.field("bytes_out").metadata == {b"doc": b"payload bytes sent"}


def test_written_again_it_replaces_itself(tmp_path: Path) -> None:
    to_parquet((DEMO,), tmp_path)
    before = sorted(tmp_path.rglob("*"))
    to_parquet((DEMO,), tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_of_many_days_need_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_OPEN", 2)
    monkeypatch.setattr(module, "GROUP_ROWS", 2)
    row = [None] * len(TABLES["dns"])
    with ParquetFolder(tmp_path) as folder:
        for day in (1, 2, 3, 1, 2, 3, 3, 3):
            folder.write("h", "dns", [("t", day * DAY + 5, *row[2:])])
    files = sorted(tmp_path.rglob("*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == 8
    assert {file.parent.parent.name for file in files} == {f"date=1970-01-0{day}" for day in (2, 3, 4)}


@pytest.mark.parametrize("host", ["..", "a/b", "", ".", "h\0st", HOSTILE, "\udcff", "%2e"])
def test_a_hosts_name_stays_one_folder(tmp_path: Path, host: str) -> None:
    name = partition(host)
    assert name and "/" not in name and "\0" not in name and not name.startswith(".")
    (tmp_path / f"host={name}").mkdir()


def test_numbers_and_text_that_no_recorder_writes(tmp_path: Path) -> None:
    names = [column.name for column in TABLES["flows"]]
    row = dict.fromkeys(names) | {"trace": "t\udc80", "time": 0, "pid": 2**80, "behaviours": ["\udcff"]}
    with ParquetFolder(tmp_path) as folder:
        folder.write("h", "flows", [tuple(row.values())])
    (file,) = tmp_path.rglob("*.parquet")
    (read,) = pq.read_table(file, partitioning=None).to_pylist()
    assert read["pid"] == 2**63 - 1 and read["trace"] == "t\\udc80" and read["behaviours"] == ["\\udcff"]


def test_hostile_names_are_kept_as_they_were(tmp_path: Path) -> None:
    to_parquet((recorded(tmp_path, incident()),), tmp_path / "out", {"processes": Depth.RECORDS})
    (file,) = (tmp_path / "out" / "processes").rglob("*.parquet")
    argv = pq.read_table(file, partitioning=None)["argv"].to_pylist()
    assert any(HOSTILE in words for words in argv if words)
