"""Tables that are kept: used again as long as nothing changed, by their owner alone, within bounds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="DuckDB is not installed (the extra query)")
pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra query)")

from agentwatch.forensics import kept
from agentwatch.forensics.query import Inputs, Limits, Needs, QueryError, Session, gathered, prepare
from agentwatch.forensics.tables import ALL, Depth
from tests.forensics.samples import damaged, incident, recorded

FLOWS: Needs = {"flows": Depth.RECORDS}
ALERTS: Needs = {"alerts": Depth.JUDGED}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return recorded(tmp_path, incident())


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "tables"


def asked(trace: Path, keep: Path | None, needs: Needs = FLOWS) -> Inputs:
    with gathered([str(trace)], needs, 1, keep) as inputs:
        for name in needs:
            assert inputs.files[name] and all(Path(file).exists() for file in inputs.files[name])
        return inputs


def entries(keep: Path) -> dict[str, int]:
    """What is kept, and when its tables were made."""
    return {str(path.relative_to(keep)): path.stat().st_mtime_ns for path in keep.glob("*/*/*")}


def test_a_second_question_converts_nothing(trace: Path, keep: Path) -> None:
    first = asked(trace, keep)
    before = entries(keep)
    assert {name.partition("/")[2] for name in before} == {"records/flows", "records/traces"}
    second = asked(trace, keep)
    assert second.files == first.files and entries(keep) == before
    assert first.told and not second.told
    assert asked(trace, keep, ALERTS).told
    now = {name.partition("/")[2] for name in entries(keep).keys() - before.keys()}
    assert now == {"judged/alerts", "judged/traces"} and entries(keep).items() > before.items()
    assert keep.stat().st_mode & 0o077 == 0


def test_what_is_prepared_is_not_converted_again(trace: Path, keep: Path) -> None:
    (told,) = prepare([trace], 1, keep)
    assert told.name == str(trace) and not told.damaged
    for needs in (FLOWS, ALERTS, ALL):
        assert not asked(trace, keep, needs).told
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trace.parent)
        assert not asked(Path(trace.name), keep, ALL).told


def test_where_nothing_can_be_kept_nothing_is_prepared(trace: Path, keep: Path) -> None:
    keep.mkdir(parents=True)
    keep.chmod(0o777)
    with pytest.raises(QueryError, match="yours alone"):
        prepare([trace], 1, keep)


def test_what_changed_is_converted_again(trace: Path, keep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(trace, keep)
    moved = trace.rename(trace.with_name("other.awt"))
    assert asked(moved, keep).told  # the tables tell the name
    monkeypatch.setattr(kept, "_maker", lambda: "another version")
    assert asked(moved, keep).told
    assert asked(damaged(moved), keep).told
    assert len(list(keep.iterdir())) == 4


def test_what_is_missing_is_said_again(trace: Path, keep: Path) -> None:
    damaged(trace)
    for _ in range(2):
        with (
            gathered([str(trace)], FLOWS, 1, keep) as inputs,
            Session(inputs, FLOWS, Limits()) as session,
        ):
            (told,) = session.told()
            assert told.damaged and "not closed" in told.missing[1] and told.name == str(trace)


def test_what_is_no_trace_is_not_kept(tmp_path: Path, keep: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    for _ in range(2):
        with gathered([str(tmp_path / "x")], FLOWS, 1, keep) as inputs:
            assert inputs.told[0].damaged and not inputs.files["flows"]


def test_a_folder_that_others_can_write_is_not_used(trace: Path, keep: Path) -> None:
    keep.mkdir(parents=True)
    keep.chmod(0o777)
    assert asked(trace, keep).told and not entries(keep)
    keep.chmod(0o700)
    assert asked(trace, keep).told and entries(keep)


def test_a_folder_that_cannot_be_made_is_done_without(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert asked(trace, tmp_path / "file" / "tables").told


def test_what_is_old_or_too_much_goes_and_what_is_in_use_stays(
    tmp_path: Path, keep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        traces.append(recorded(folder, incident()))
        asked(traces[-1], keep)
    held = {path.name: path for path in keep.iterdir()}
    with kept.place((traces[0],), keep) as used:
        assert used is not None
        others = [path for path in held.values() if path != used]
        os.utime(others[0], (0, time.time() - kept.KEPT_SECONDS - 60))
        kept.prune(keep)
        assert sorted(keep.iterdir()) == sorted([used, others[1]])
        monkeypatch.setattr(kept, "KEPT_BYTES", 1)
        kept.prune(keep)
        assert list(keep.iterdir()) == [used]
    kept.prune(keep)
    assert list(keep.iterdir()) == []
