"""Finding frames without reading them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentwatch.sources.base import BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.index import Index, build_index, read
from agentwatch.trace.summary import Summariser
from tests.trace.samples import LAYOUT, end_body, frames, header_body, rounds, rounds_body, trace

ROUNDS = rounds(30)
BODIES = [rounds_body([batches]) for batches in ROUNDS]
PIECES = frames(header_body(), *BODIES, end_body(ROUNDS))
WHOLE = b"".join(PIECES)

summarise = Summariser({BatchKind.SLOTS: LAYOUT, BatchKind.RECORDS: LAYOUT}, "little")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.awt"
    path.write_bytes(WHOLE)
    return path


def _holds(batches: Round, first: int, last: int, agent: int, pid: int) -> bool:
    found = summarise([batches])
    times = found.first_time <= last and found.last_time >= first
    return times and bool({agent, 0} & found.agents) and bool({pid, 0} & found.pids)


def test_every_frame_is_found(path: Path) -> None:
    index = build_index(path)
    assert (index.indexed, index.size) == (len(WHOLE), len(WHOLE))
    assert len(index.entries) == len(ROUNDS)
    assert list(read(path, index.select())) == ROUNDS


def test_frames_are_found_by_what_they_hold(path: Path) -> None:
    index = build_index(path)
    middle = BODIES[10].first_time, BODIES[20].last_time
    for agent, pid in ((1, 100), (2, 201), (3, 300), (1, 999), (7, 100)):
        found = list(read(path, index.select(*middle, agent, pid)))
        assert found == [batches for batches in ROUNDS if _holds(batches, *middle, agent, pid)]
        assert len(found) < len(ROUNDS) // 2


def test_a_frame_without_a_summary_is_never_ruled_out(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    path.write_bytes(trace(replace(BODIES[0], summary=b""), replace(BODIES[1], summary=b"\xc1")))
    assert len(list(build_index(path).select(agent=77, pid=77))) == 2


def test_cut_anywhere_the_whole_frames_are_found(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    for cut in range(24, len(WHOLE), 7):
        path.write_bytes(WHOLE[:cut])
        index = build_index(path)
        assert list(read(path, index.entries)) == ROUNDS[: len(index.entries)]
        assert index.indexed <= cut == index.size


def test_a_damaged_frame_is_not_read(path: Path) -> None:
    index = build_index(path)
    broken = bytearray(WHOLE)
    broken[index.entries[3].offset + 150] ^= 1
    path.write_bytes(broken)
    with pytest.raises(TraceError, match="digest"):
        list(read(path, index.entries))


def test_what_is_no_trace(tmp_path: Path) -> None:
    for name in ("gone", "."):
        with pytest.raises(TraceError):
            build_index(tmp_path / name)
    (tmp_path / "empty").touch()
    with pytest.raises(TraceError):
        build_index(tmp_path / "empty")


@given(st.binary(max_size=400), st.integers(24, len(WHOLE)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_raise_anything_but_a_trace_error(tmp_path: Path, junk: bytes, at: int) -> None:
    path = tmp_path / "junk.awt"
    path.write_bytes(WHOLE[:at] + junk + WHOLE[at:])
    index = build_index(path)
    assert isinstance(index, Index)
    with contextlib.suppress(TraceError):
        assert all(batches in ROUNDS for batches in read(path, index.entries))


def test_whether_it_was_closed_is_told(path: Path) -> None:
    assert build_index(path).closed
    path.write_bytes(b"".join(PIECES[:-1]))
    assert not build_index(path).closed
