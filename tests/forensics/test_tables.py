"""Rows of tables: as wide as their columns say, and saying what the recording does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentwatch.forensics.reading import Reading
from agentwatch.forensics.tables import ALL, TABLES, Depth, Row
from tests.forensics.samples import DEMO, HOSTILE, damaged, incident, recorded
from tests.recordings import BEGAN, BOOTED, SECOND


def rows_of(path: Path, wanted: Mapping[str, Depth] = ALL) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}

    def keep(host: str, table: str, rows: list[Row]) -> None:
        names = [column.name for column in TABLES[table]]
        found[table] += (dict(zip(names, row, strict=True)) for row in rows)

    Reading((path,), keep, wanted).run()
    return found


def test_a_recording_in_tables(tmp_path: Path) -> None:
    rows = rows_of(recorded(tmp_path, incident()))
    curl = next(row for row in rows["processes"] if row["pid"] == 102)
    assert (curl["parent_pid"], curl["signal"], curl["exit_code"], curl["programs"]) == (101, 9, None, 1)
    assert curl["argv"][2] == HOSTILE
    assert curl["time"] == BOOTED + BEGAN + 2 * SECOND
    flow = next(row for row in rows["flows"] if row["destination_port"] == 1)
    assert (flow["destination_ip"], flow["bytes_out"], flow["initiated"]) == ("203.0.113.9", 5000, True)
    (question,) = rows["dns"]
    assert (question["name"], question["type"], question["status"]) == ("parent.example", "A", None)
    (alert,) = rows["alerts"]
    assert (alert["number"], alert["pid"], alert["remote"]) == (1, 102, "203.0.113.9:1")
    assert json.loads(alert["alert"])["evidence"] == alert["evidence"]
    (trace,) = rows["traces"]
    assert (trace["damaged"], trace["missing"], trace["alerts"]) == (False, [], 1)
    assert {row["trace"] for table in rows.values() for row in table} == {trace["sha256"][:16]}


def test_each_record_is_an_event(tmp_path: Path) -> None:
    rows = rows_of(recorded(tmp_path, incident()))["events"]
    assert [row["type"] for row in rows[:3]] == ["agent", "exec", "fork"]
    asked = next(row for row in rows if row["category"] == "dns_query")
    assert json.loads(asked["fields"])["QueryName"] == "parent.example"
    closed = next(row for row in rows if row["type"] == "close")
    assert closed["category"] is None and json.loads(closed["fields"])["bytes_out"] == 5000


def test_only_what_is_wanted_is_made() -> None:
    rows = rows_of(DEMO, {"alerts": Depth.JUDGED})
    assert {name for name, found in rows.items() if found} == {"alerts"}


def test_what_is_missing_stands_in_the_table_of_traces(tmp_path: Path) -> None:
    (trace,) = rows_of(damaged(recorded(tmp_path, incident())))["traces"]
    assert trace["damaged"] and trace["missing"]


def test_the_documentation_lists_every_column() -> None:
    document = (Path(__file__).parents[2] / "docs" / "forensics.md").read_text()
    for name, columns in TABLES.items():
        _, _, after = document.partition(f"### {name}: ")
        assert [line for line in after.split("###")[0].splitlines() if line.startswith("| `")] == [
            f"| `{column.name}` | {column.kind} | {column.doc} |" for column in columns
        ]
