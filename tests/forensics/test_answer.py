"""Answers: nothing in them acts on a terminal or a spreadsheet, and nothing is lost on the way."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra query)")
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.forensics.answer import write_csv, write_json, write_parquet, write_table
from tests.forensics.samples import FORMULA, HOSTILE

NS = 1_795_524_603_605_961_578


def batches(**columns: Any) -> list[Any]:
    """As a query gives them: the first tells the columns and has no rows."""
    table = pa.table(columns)
    none = pa.record_batch([pa.array([], one.type) for one in table.schema], schema=table.schema)
    return [none, *table.to_batches()]


def csv_of(**columns: Any) -> list[list[str]]:
    file = io.BytesIO()
    write_csv(batches(**columns), file.write)
    return list(csv.reader(io.StringIO(file.getvalue().decode(), newline="")))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_no_cell_of_a_spreadsheet_is_a_formula(texts: list[str]) -> None:
    _, *rows = csv_of(a=pa.array(texts), n=pa.array([1] * len(texts)))
    assert len(rows) == len(texts)
    for (cell, _), text in zip(rows, texts, strict=True):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
        if text.isprintable():
            assert cell in (text, f"'{text}")


def test_formulas_in_lists_and_names_are_text_and_numbers_stay() -> None:
    names, row = csv_of(**{FORMULA: pa.array([[FORMULA]]), "n": pa.array([-5]), "f": pa.array([-1.5])})
    assert names[0] == f"'{FORMULA}" and not row[0].startswith("=")
    assert row[1:] == ["-5", "-1.5"]


def test_no_cell_acts_on_a_terminal() -> None:
    _, (cell,) = csv_of(a=pa.array([f"{HOSTILE}\x9b2J\r\nx"]))
    assert cell.startswith("\\x1b]0;owned\\x07<script>") and cell.endswith("&\\x9b2J\\r\nx")
    assert "\u202e" not in cell


def test_sums_are_numbers_where_they_fit() -> None:
    sums = pa.array([Decimal(-5), Decimal(2**64 - 1), Decimal(2**64), None], pa.decimal128(38, 0))
    file = io.BytesIO()
    write_json(batches(n=sums, l=pa.array([[one] for one in sums.to_pylist()])), file.write)
    found = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [row["n"] for row in found] == [-5, 2**64 - 1, str(2**64), None]
    assert [row["l"] for row in found] == [[row["n"]] for row in found]
    assert [row[0] for row in csv_of(n=sums)] == ["n", "-5", str(2**64 - 1), str(2**64), ""]


def test_json_has_no_infinity() -> None:
    file = io.BytesIO()
    write_json(batches(a=pa.array([float("nan")]), b=pa.array([[1.0, float("inf")]])), file.write)
    assert json.loads(file.getvalue(), parse_constant=pytest.fail) == {"a": "nan", "b": [1.0, "inf"]}


def test_a_table_shows_what_cannot_be_seen() -> None:
    file = io.BytesIO()
    assert write_table(batches(**{HOSTILE: pa.array([HOSTILE, None])}), file.write, 10)
    text = file.getvalue().decode()
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b]0;owned" in text
    assert len(text.splitlines()) == 4


def test_a_table_says_that_there_is_more() -> None:
    file = io.BytesIO()
    assert not write_table(batches(a=pa.array(range(1000))), file.write, 300)
    assert len(file.getvalue().splitlines()) == 302


def test_an_empty_answer_has_its_names() -> None:
    assert csv_of(a=pa.array([], pa.int64())) == [["a"]]
    file = io.BytesIO()
    assert write_table(batches(a=pa.array([], pa.int64())), file.write, 10)
    assert file.getvalue() == b"a\n-\n"


def test_times_keep_their_nanoseconds() -> None:
    time = pa.array([NS], pa.timestamp("ns"))
    nested = pa.array([[NS]], pa.list_(pa.timestamp("ns")))
    pair = pa.array([{"t": NS}], pa.struct([("t", pa.timestamp("ns"))]))
    file = io.BytesIO()
    write_json(batches(time=time, nested=nested, pair=pair, data=pa.array([b"\xff"])), file.write)
    assert json.loads(file.getvalue()) == {
        "time": "2026-11-24T12:50:03.605961578Z", "nested": [NS], "pair": {"t": NS}, "data": "ff"
    }  # fmt: skip


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_is_ascii_and_reads_back(text: str) -> None:
    file = io.BytesIO()
    write_json(batches(a=pa.array([text])), file.write)
    assert file.getvalue().isascii() and json.loads(file.getvalue()) == {"a": text}


def test_parquet_reads_back() -> None:
    file = io.BytesIO()
    write_parquet(batches(a=pa.array([1, 2])), file)
    assert pq.read_table(file).to_pydict() == {"a": [1, 2]}
