"""Words that name rules."""

from __future__ import annotations

import pytest

from agentwatch.rules.model import Rule, RuleSet
from agentwatch.rules.selection import left_out, strangers

RULES = RuleSet(
    rules=(
        Rule(id="a1", title="A", level="high", name="miner", tags=("attack.impact", "attack.t1496.001")),
        Rule(id="b2", title="B", level="low", tags=("attack.command_and_control",)),
        Rule(id="c3", title="C", level="low", tags=("attack.command-and-control", "cve.2021.1")),
    ),
    digest="",
)


@pytest.mark.parametrize(
    ("only", "without", "silent"),
    [
        ((), (), ""),
        (("a1",), (), "b2 c3"),
        (("Miner",), (), "b2 c3"),
        (("attack.t1496.001",), (), "b2 c3"),
        (("impact", "cve.2021.1"), (), "b2"),
        ((), ("command-and-control",), "b2 c3"),
        ((), ("attack.command_and_control", "a1"), "a1 b2 c3"),
        (("command_and_control",), ("c3",), "a1 c3"),
        (("nothing",), (), "a1 b2 c3"),
        (("",), (), "a1 b2 c3"),
    ],
)
def test_rules_are_named_by_id_name_tag_or_tactic(
    only: tuple[str, ...], without: tuple[str, ...], silent: str
) -> None:
    assert left_out(only, without, RULES) == frozenset(silent.split())


def test_words_that_name_no_rule_are_told() -> None:
    assert strangers(("a1", "impact", "impac", ""), RULES) == ["impac", ""]
