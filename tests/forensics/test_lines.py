"""JSON lines: each row names its table and is ASCII."""

from __future__ import annotations

import io
import json
from pathlib import Path

from agentwatch.forensics.export import to_lines
from agentwatch.forensics.tables import TABLES
from tests.forensics.samples import HOSTILE, incident, recorded


def test_rows_as_lines(tmp_path: Path) -> None:
    file = io.BytesIO()
    (story,) = to_lines([(recorded(tmp_path, incident()),)], file.write)
    assert not story.incomplete
    assert file.getvalue().isascii() and b"\x1b" not in file.getvalue()
    rows = [json.loads(line) for line in file.getvalue().splitlines()]
    assert {row["table"] for row in rows} == TABLES.keys()
    for row in rows:
        assert list(row) == ["table", "host", *(column.name for column in TABLES[row["table"]])]
        assert row["host"] == "train7"
    curl = next(row for row in rows if row["table"] == "processes" and row["pid"] == 102)
    assert curl["argv"][2] == HOSTILE and curl["time"].endswith("Z")
    asked = next(row for row in rows if row["type"] == "payload" and row["table"] == "events")
    assert bytes.fromhex(asked["data"])[12:19] == b"\x06parent"
