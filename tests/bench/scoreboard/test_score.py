"""Verdicts against expectations, and intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scoreboard.scenarios import Scenario
from bench.scoreboard.score import OFFLINE, REAL, SKIPPED, Result, Score, wilson


def result(
    family: str, expected: str, verdict: str, how: str = REAL, *, kind: str = "attack", name: str = "x"
) -> Result:
    return Result(Scenario(name, kind, family, "true", expected), how, verdict)


def honest(verdict: str) -> Result:
    return result("ops", "allow", verdict, kind="benign")


# Computed by hand from Wilson's formula with z = 1.959964; they agree with tables of 95 % intervals.
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 100, 0.0018, 0.0545)],
)
def test_wilsons_interval(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_without_trials_all_is_open() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_share_lies_in_its_interval(trials: tuple[int, int]) -> None:
    hits, n = trials
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


@pytest.mark.parametrize(
    ("expected", "verdict", "right"),
    [
        ("kill", "kill", True),
        ("kill", "pause", False),
        ("pause", "kill", True),
        ("alert", "block", True),
        ("alert", "allow", False),
    ],
)
def test_an_attack_needs_at_least_what_is_expected(expected: str, verdict: str, right: bool) -> None:
    assert result("mining", expected, verdict).right == right


@pytest.mark.parametrize(("verdict", "right"), [("allow", True), ("alert", True), ("block", False)])
def test_honest_work_may_meet_an_alert(verdict: str, right: bool) -> None:
    assert honest(verdict).right == right


def test_counts_by_family_leave_out_what_was_skipped() -> None:
    score = Score(
        [
            result("mining", "kill", "kill"),
            result("mining", "kill", "pause", OFFLINE),
            result("mining", "kill", "allow", SKIPPED),
            honest("alert"),
            honest("pause"),
        ]
    )
    mining, ops = score.families
    assert (mining.name, mining.attacks, mining.found, mining.real) == ("mining", 2, 1, 1)
    assert (ops.benign, ops.alerts, ops.above) == (2, 1, 1)
    assert (score.total.attacks, score.total.benign) == (2, 2)
    assert [one.verdict for one in score.misses] == ["pause", "pause"]


def test_targets() -> None:
    found = [result("evasion-exec", "kill", "kill")] * 97 + [honest("alert")] * 2
    assert Score(found).shortcomings() == []
    assert len(Score([*found, result("tunnel", "kill", "pause")]).shortcomings()) == 1
    assert len(Score([*found, *[result("recon", "alert", "allow")] * 6]).shortcomings()) == 1
    assert len(Score([*found, honest("alert")]).shortcomings()) == 1
    assert len(Score([*found, honest("block")]).shortcomings()) == 1
