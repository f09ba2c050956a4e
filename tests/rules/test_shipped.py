"""The rules that ship: complete, sound, and right on their samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agentwatch.resources import RULES
from agentwatch.rules import samples
from agentwatch.rules.check import warnings
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import Rule, RuleSet

SAMPLES = Path(__file__).parent


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    """The shipped rules."""
    return load_rules([RULES], cache=tmp_path_factory.mktemp("cache"))


def no_traces(file: Path, make_engine: Callable[[int], Engine]) -> None:
    """These samples are events; recorded traces are replayed by the tests of the pipeline."""
    raise ValueError("a trace")


def test_all_of_them_are_evaluated_and_none_is_odd(shipped: RuleSet) -> None:
    assert shipped.rules
    assert not shipped.refused
    assert not [rule.title for rule in shipped.rules if rule.partial]
    assert not warnings(shipped)


def test_each_says_what_an_operator_needs(shipped: RuleSet) -> None:
    def complete(rule: Rule) -> bool:
        techniques = [tag for tag in rule.tags if tag.startswith("attack.t1")]
        return bool(techniques and len(rule.description) > 150 and rule.falsepositives and rule.references)

    assert not [rule.title for rule in shipped.rules if not (rule.silent or complete(rule))]


def test_only_rules_of_a_high_level_act(shipped: RuleSet) -> None:
    assert {rule.level for rule in shipped.rules if rule.response != "alert"} <= {"high", "critical"}


def test_each_is_right_on_its_samples(shipped: RuleSet) -> None:
    results = [one for one in samples.run(shipped, SAMPLES, no_traces) if one.file.suffix == samples.EVENTS]
    assert not [f"{one.file}: {one.found}" for one in results if not one.passed]
    for rule in shipped.rules:
        if rule.silent:  # it has no alerts of its own
            continue
        assert {one.expected for one in results if one.rule == rule} >= {"hit", "miss"}, rule.title
