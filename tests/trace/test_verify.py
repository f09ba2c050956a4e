"""Whether a trace is whole and unchanged."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.trace.error import TraceError
from agentwatch.trace.format import Body, FrameType
from agentwatch.trace.pack import pack
from agentwatch.trace.reader import DamageKind
from agentwatch.trace.verify import Report, verify
from tests.trace.samples import end_body, frames, header_body, plain_body, rounds, rounds_body, trace

ROUNDS = rounds(9)
BODIES = [rounds_body(ROUNDS[n : n + 3]) for n in range(0, 9, 3)]
PIECES = frames(header_body(), *BODIES, end_body(ROUNDS))
WHOLE = b"".join(PIECES)


def _verify(data: bytes) -> Report:
    return verify(io.BytesIO(data))


def _kinds(report: Report) -> list[DamageKind]:
    return [item.kind for item in report.damage]


def test_a_whole_trace() -> None:
    report = _verify(WHOLE)
    assert report.whole and report.closed
    assert (report.rounds, report.records) == (9, sum(body.records for body in BODIES))
    assert (report.first_time, report.last_time) == (BODIES[0].first_time, BODIES[-1].last_time)
    assert report.digest == PIECES[-1][88:120]


@given(st.integers(24, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_goes_unseen(at: int, flip: int) -> None:
    broken = bytearray(WHOLE)
    broken[at] ^= flip
    try:
        assert not _verify(bytes(broken)).whole
    except TraceError:
        assert at < len(PIECES[0]) + len(PIECES[1])


@pytest.mark.parametrize("drop", [2, 3, 4, 5])
def test_no_removed_frame_goes_unseen(drop: int) -> None:
    assert not _verify(b"".join(PIECES[:drop] + PIECES[drop + 1 :])).whole


@pytest.mark.parametrize(
    "lie",
    [
        replace(BODIES[1], records=BODIES[1].records + 1),
        replace(BODIES[1], first_time=1),
        replace(BODIES[1], last_time=1),
        replace(BODIES[1], summary=pack([[9], [9]])),
        replace(BODIES[1], summary=b""),
        replace(BODIES[1], summary=b"\xff" * 70),
    ],
)
def test_a_frame_that_lies_about_what_it_holds_is_malformed(lie: Body) -> None:
    assert _kinds(_verify(trace(BODIES[0], lie, BODIES[2], end_body(ROUNDS)))) == [DamageKind.MALFORMED]


def test_an_end_with_other_totals_is_malformed() -> None:
    assert _kinds(_verify(trace(*BODIES, end_body(ROUNDS[:5])))) == [DamageKind.MALFORMED]
    assert _kinds(_verify(trace(*BODIES, plain_body(FrameType.END, b"\xc1")))) == [DamageKind.MALFORMED]


def test_a_trace_without_an_end_is_not_whole() -> None:
    report = _verify(trace(*BODIES))
    assert not report.whole and not report.closed
    assert _kinds(report) == [DamageKind.UNFINISHED]
