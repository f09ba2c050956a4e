"""Parquet: each table a folder, partitioned by date and host; written and read through PyArrow.

    DIR/events/date=2026-01-31/host=train7/0123456789abcdef.0.parquet

Exported again, a trace replaces its own files and no others.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from agentwatch.forensics.tables import ROWS, TABLES, Column, Row

GROUP_ROWS = 16384  # rows in memory for each open file
FILES_OPEN = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TYPES: dict[str, pa.DataType] = {
    "time": pa.timestamp("ns"),
    "text": pa.string(),
    "int": pa.int64(),
    "bool": pa.bool_(),
    "bytes": pa.binary(),
    "json": pa.string(),
    "texts": pa.list_(pa.string()),
    "ints": pa.list_(pa.int64()),
}
_LARGEST = (1 << 63) - 1
_DAY = 86_400_000_000_000  # ns
_Place = tuple[str, str, str, int]  # host, table, trace, days since 1970


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    """Times are UTC; Arrow's type says no zone, so that nanoseconds survive in every reader."""
    return pa.schema([pa.field(one.name, _TYPES[one.kind], metadata={"doc": one.doc}) for one in columns])


class ParquetFolder:
    """Takes rows of tables, in any order. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[_Place, _File] = OrderedDict()
        self._begun: dict[_Place, int] = {}

    def __enter__(self) -> ParquetFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def write(self, host: str, table: str, rows: Sequence[Row]) -> None:
        """Rows of a trace, into the files of their dates."""
        days = {row[1] // _DAY for row in rows}
        for day in sorted(days):
            of_day = rows if len(days) == 1 else [row for row in rows if row[1] // _DAY == day]
            self._file(host, table, of_day[0][0], day).write(of_day)

    def _file(self, host: str, table: str, trace: str, day: int) -> _File:
        key = host, table, trace, day
        file = self._open.get(key)
        if file is None:
            file = self._open[key] = self._begin(key)
            if len(self._open) > FILES_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return file

    def _begin(self, key: _Place) -> _File:
        host, table, trace, day = key
        number = self._begun.get(key, 0)
        self._begun[key] = number + 1
        date = f"date={_EPOCH + timedelta(days=day):%Y-%m-%d}"
        folder = self._folder / table / date / f"host={partition(host)}"
        folder.mkdir(parents=True, exist_ok=True)
        return _File(folder / f"{partition(trace)}.{number}.parquet", TABLES[table])


class _File:
    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        self._columns, self._schema = columns, schema_of(columns)
        self._rows: list[Row] = []
        self._path, self._unfinished = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        self._unfinished.unlink(missing_ok=True)
        self._unfinished.touch(0o600)  # as confidential as the trace
        self._writer = pq.ParquetWriter(self._unfinished, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= GROUP_ROWS or len(rows) < ROWS:  # so few are handed on where they are long
            self._flush()

    def _flush(self) -> None:
        values = zip(*self._rows, strict=True)
        arrays = [_array(of, one.type) for of, one in zip(values, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()
        self._unfinished.replace(self._path)


def partition(text: str) -> str:
    """A name as part of a path: a host's name is the word of whoever made the trace."""
    return quote(text, safe="", errors="backslashreplace").replace(".", "%2E") or "unknown"


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
        # A trace made by hand holds numbers and text that no recorder writes.
        return pa.array([_tamed(value) for value in values], kind)


def _tamed(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_tamed(one) for one in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-_LARGEST, min(value, _LARGEST))
    return value
