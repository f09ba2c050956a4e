"""Reading for a part of the tables: the same rows as when everything is read, with less folded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from agentwatch.enrich.state import State
from agentwatch.forensics.reading import Reading
from agentwatch.forensics.tables import ALL, TABLES, Depth, Row
from agentwatch.sources.base import Round
from tests.forensics import samples
from tests.forensics.samples import DEMO, QUESTION, incident, payload, recorded
from tests.fuzz.test_forensics import ROUNDS
from tests.recordings import BEGAN

# What only rules, or no records at all, can tell is not told at a lesser depth.
_VARIES = {"traces": {"alerts", "lost", "missing", "damaged", "time", "ended"}}

PARTS: tuple[Mapping[str, Depth], ...] = (
    {"processes": Depth.RECORDS},
    {"flows": Depth.RECORDS},
    {"dns": Depth.RECORDS},
    {"dns": Depth.RECORDS, "flows": Depth.RECORDS, "processes": Depth.RECORDS},
    {"flows": Depth.RECOGNISED, "dns": Depth.RECORDS},
    {"flows": Depth.EVENTS},
    {"events": Depth.EVENTS},
    {"events": Depth.DETAILS, "processes": Depth.RECORDS},
    {"alerts": Depth.JUDGED, "flows": Depth.RECORDS},
    {"traces": Depth.RECORDS},
)


def read(path: Path, wanted: Mapping[str, Depth]) -> dict[str, list[dict[str, Any]]]:
    """Rows by table, in an order of their own, with what the depth asked for has of each."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def keep(host: str, table: str, rows: list[Row]) -> None:
        columns = TABLES[table]
        for row in rows:
            pairs = zip(columns, row, strict=True)
            found[table].append({column.name: value for column, value in pairs})

    Reading((path,), keep, wanted).run()
    for rows in found.values():
        rows.sort(key=repr)
    return found


def part_of(found: dict[str, list[dict[str, Any]]], wanted: Mapping[str, Depth]) -> dict[str, Any]:
    """Rows without the columns that a lesser depth leaves empty."""
    told = {}
    for table, depth in wanted.items():
        left_out = {column.name for column in TABLES[table] if column.depth > depth} | _VARIES.get(
            table, set()
        )
        rows = [{n: v for n, v in row.items() if n not in left_out} for row in found.get(table, [])]
        told[table] = sorted(rows, key=repr)
    return told


def busy() -> list[Round]:
    """Processes and sockets without a beginning, datagrams on another port, agents that follow each other."""
    answer = QUESTION[:2] + b"\x81\x80" + QUESTION[4:]
    return [
        *incident(),
        samples.connect(300, 5, port=53, cookie=90),
        payload(300, 5.1, QUESTION, port=5300, cookie=91, protocol=17),
        payload(0, 5.2, answer, port=5300, flags=1, cookie=91, protocol=17),
        payload(301, 5.3, QUESTION, port=53, flags=4, cookie=92, protocol=17),
        samples.slot("signal", time=BEGAN + 10**10, tgid=302, start=302, signal=9, target=1),
        samples.fork(303, 302, 11),
        samples.end(303, 12),
        samples.notes((70, BEGAN + 13 * 10**9, 1, 0, 0, "other", "/agentwatch/other", 6, "monitor")),
        samples.run(304, 302, 14, "/usr/bin/env", ["env"]),
        samples.slot("signal", time=BEGAN + 15 * 10**9, tgid=302, start=302, signal=9, target=1),
    ]


@pytest.mark.parametrize("wanted", PARTS, ids=lambda one: "+".join(f"{n}-{d.name}" for n, d in one.items()))
def test_a_part_is_what_it_is_in_the_whole(tmp_path: Path, wanted: Mapping[str, Depth]) -> None:
    for path in (DEMO, recorded(tmp_path, busy())):
        whole = read(path, ALL)
        assert part_of(read(path, wanted), wanted) == part_of(whole, wanted)
        assert all(whole[table] for table in wanted if (path, table) != (DEMO, "dns"))


@settings(max_examples=40, deadline=None)
@given(ROUNDS)
def test_of_no_record_a_part_is_another(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[Round]
) -> None:
    path = recorded(tmp_path_factory.mktemp("hostile"), [samples.agent(), *rounds])
    whole = read(path, ALL)
    for wanted in PARTS:
        assert part_of(read(path, wanted), wanted) == part_of(whole, wanted)


def test_what_a_part_leaves_empty() -> None:
    (flow, *_) = read(DEMO, {"flows": Depth.RECORDS})["flows"]
    assert (flow["protocol"], flow["hostname"], flow["behaviours"]) == (None, None, None)
    (event, *_) = read(DEMO, {"events": Depth.EVENTS})["events"]
    assert (event["fields"], event["markers"], event["data"]) == (None, None, None)


def test_what_is_not_asked_for_is_not_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folded = recorded(tmp_path, busy()), []
    apply = State.apply

    def counted(self: State, seq: int, row: Any) -> Any:
        folded.append(row[2])
        return apply(self, seq, row)

    monkeypatch.setattr(State, "apply", counted)
    for wanted in ({"traces": Depth.RECORDS}, {"processes": Depth.RECORDS}, ALL):
        read(path, wanted)
        folded.append(0)
    some, more, everything = "".join(map(chr, folded)).split("\0")[:3]
    assert 0 < len(some) < len(more) < len(everything)


def test_damage_is_told_whatever_is_read(tmp_path: Path) -> None:
    path = samples.damaged(recorded(tmp_path, incident()))
    for wanted in PARTS:
        (trace,) = read(path, {**wanted, "traces": max(wanted.values())})["traces"]
        assert trace["damaged"] and "not closed" in trace["missing"][1]
