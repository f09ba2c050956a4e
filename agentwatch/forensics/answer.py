"""The answer to a query as a table for eyes, JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from math import isfinite
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from agentwatch.forensics.account import LARGEST_TIME
from agentwatch.sinks.alerts import timestamp
from agentwatch.tui.text import printable

CELL = 120  # characters of a cell in a table
WIDTHS_FROM = 200  # rows that say how wide the columns of a table are
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # in full width, too
# What acts on a terminal or on the order of letters; line breaks are the cell's own.
_ACTING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_INTEGERS = range(-(1 << 63), 1 << 64)  # that are numbers in JSON

Batches = Iterable[pa.RecordBatch]
Write = Callable[[bytes], object]


def write_parquet(batches: Batches, file: BinaryIO) -> None:
    """One Parquet file."""
    rest = iter(batches)
    first = next(rest)
    with pq.ParquetWriter(file, first.schema, compression="zstd") as writer:
        for batch in rest:
            writer.write_batch(batch)


def write_json(batches: Batches, write: Write) -> None:
    """One object a line, in ASCII: no byte of an agent's acts on a terminal that shows it."""
    for names, row in _rows(batches):
        write(_json(dict(zip(names, row, strict=True))).encode("ascii") + b"\n")


def write_csv(batches: Batches, write: Write) -> None:
    """RFC 4180 with a line of names.

    No text begins as a spreadsheet's formula does: ' comes before it. Control characters are escaped.
    """
    for first, (names, row) in enumerate(_rows(batches, empty=True)):
        if not first:
            write(_csv_line(names))
        if row is not None:
            write(_csv_line(row))


def write_table(batches: Batches, write: Write, limit: int) -> bool:
    """Columns as wide as they need to be. False where there were more than `limit` rows."""
    rows = _rows(batches, empty=True)
    names, _ = next(rows)
    cells = ([_cell(value) for value in row] for _, row in rows if row is not None)
    head = list(islice(cells, min(WIDTHS_FROM, limit)))
    shown = [printable(name, CELL) for name in names]
    widths = [max(map(len, column)) for column in zip(shown, *head, strict=True)]
    _line(write, shown, widths)
    _line(write, ["-" * width for width in widths], widths)
    for row in head:
        _line(write, row, widths)
    for row in islice(cells, limit - len(head)):
        _line(write, row, widths)
    return next(cells, None) is None


def _rows(batches: Batches, empty: bool = False) -> Iterator[tuple[list[str], Any]]:
    """Names and values of each row; with `empty`, the names come first with no row."""
    for number, batch in enumerate(batches):
        names = batch.schema.names
        if empty and not number:
            yield names, None
        columns = [_values(batch.column(index)) for index in range(batch.num_columns)]
        for row in zip(*columns, strict=True):
            yield names, row


def _values(column: pa.Array) -> Sequence[Any]:
    """A column's values; times as text with nanoseconds, which Python's own times lack."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        scale = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[kind.unit]
        numbers = column.cast(pa.int64()).to_pylist()
        return [None if n is None else _time(n * scale) for n in numbers]
    plain = _without_times(kind)
    return list((column if plain == kind else column.cast(plain)).to_pylist())


def _without_times(kind: pa.DataType) -> pa.DataType:
    """A type in whose lists and structures times are numbers (ns since 1970)."""
    if pa.types.is_timestamp(kind):
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_without_times(kind.key_type), _without_times(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(one.name, _without_times(one.type)) for one in kind])
    return kind


def _time(ns: int) -> str:
    return timestamp(max(-LARGEST_TIME, min(ns, LARGEST_TIME)), 0)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return _json(value) if isinstance(value, (bool, list, dict, tuple)) else str(value)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except ValueError:  # JSON has no infinity
        return json.dumps(_finite(value), default=_plain)


def _plain(value: Any) -> Any:
    """What JSON has no type for: sums are decimal numbers."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal) and value == value.to_integral_value() and int(value) in _INTEGERS:
        return int(value)
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def _cell(value: Any) -> str:
    return printable(_text(value), CELL)


def _csv_line(row: Sequence[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(value) for value in row])
    return line.getvalue().encode("utf-8", "backslashreplace")


def _harmless(value: Any) -> Any:
    """Numbers as they are; text so that no spreadsheet takes it for a formula."""
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return value
    text = _ACTING.sub(lambda found: found.group().encode("unicode_escape").decode(), _text(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(write: Write, cells: Sequence[str], widths: Sequence[int]) -> None:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    write("  ".join(padded).rstrip().encode("utf-8", "backslashreplace") + b"\n")
