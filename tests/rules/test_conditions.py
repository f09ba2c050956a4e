"""Every form of a condition: hit, miss, undecided."""

from __future__ import annotations

import pytest

from agentwatch.rules.model import RuleError
from tests.rules.helpers import event, judge, rule, rules

SELECTIONS = """
sel_a:
  CommandLine|contains: 'aa'
sel_b:
  CommandLine|contains: 'bb'
other:
  User: root
"""

# Condition -> command lines that hit and miss, and a cut one that leaves it open; user is root.
CONDITIONS = {
    "sel_a": ("aa", "bb", "x"),
    "sel_a and sel_b": ("bb aa", "aa", "aa"),
    "sel_a or sel_b": ("bb", "x", "x"),
    "not sel_a": ("bb", "aa", "bb"),
    "sel_a and not sel_b": ("aa", "aa bb", "aa"),
    "(sel_a or sel_b) and other": ("aa", "x", "x"),
    "not (sel_a and sel_b)": ("aa", "aa bb", "aa"),
    "sel_a and (not sel_b or not other)": ("aa", "aa bb", "aa"),
    "1 of sel_*": ("bb", "x", "x"),
    "any of sel_*": ("bb", "x", "x"),
    "all of sel_*": ("aa bb", "bb", "aa"),
    "1 of them": ("x", None, None),
    "all of them": ("aa bb", "aa", "aa"),
    "not 1 of sel_*": ("x", "bb", "x"),
    "other and not all of sel_*": ("aa", "aa bb", "aa"),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(condition: str) -> None:
    hit, miss, open_ = CONDITIONS[condition]
    detection = f"{SELECTIONS}condition: {condition}"
    assert judge(detection, event(User="root", CommandLine=hit)) is True
    if miss is not None:
        assert judge(detection, event(User="root", CommandLine=miss)) is False
    if open_ is not None:
        cut = event(User="root", CommandLine=open_, truncated=["CommandLine"])
        assert judge(detection, cut) is None


def test_what_is_known_decides_in_spite_of_a_cut_value() -> None:
    detection = f"{SELECTIONS}condition: sel_a and other"
    assert judge(detection, event(User="agent", CommandLine="x", truncated=["CommandLine"])) is False
    detection = f"{SELECTIONS}condition: sel_a or other"
    assert judge(detection, event(User="root", CommandLine="x", truncated=["CommandLine"])) is True


def test_a_map_needs_all_of_its_fields_and_a_list_one_of_its_maps() -> None:
    detection = "s:\n  - User: root\n    CommandLine: x\n  - CommandLine: y\ncondition: s"
    assert judge(detection, event(User="root", CommandLine="x")) is True
    assert judge(detection, event(User="agent", CommandLine="x")) is False
    assert judge(detection, event(User="agent", CommandLine="y")) is True


def test_a_list_of_conditions_holds_when_one_does() -> None:
    detection = f"{SELECTIONS}condition:\n  - sel_a\n  - sel_b"
    assert judge(detection, event(CommandLine="bb")) is True
    assert judge(detection, event(CommandLine="x")) is False


@pytest.mark.parametrize(
    ("keywords", "hit", "miss"),
    [
        ("- 'one'\n  - 'two*three'", "x TWO and three", "three two"),
        ("'|all':\n    - 'one'\n    - 42", "42 one", "one"),
        ("- 'a?c'", "xabcx", "ac"),
        ("'|re': 'a+b'", "xaab", "xaa"),
    ],
)
def test_keywords_stand_in_any_text_field(keywords: str, hit: str, miss: str) -> None:
    detection = f"k:\n  {keywords}\ncondition: k"
    assert judge(detection, event(User=hit, CommandLine="")) is True
    assert judge(detection, event(User="", Argv=("y", hit))) is True
    assert judge(detection, event(User=miss, CommandLine="")) is False
    assert judge(detection, event(User=miss, truncated=["CommandLine"])) is None


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_field_that_is_absent_matches_only_absence(number: int) -> None:
    assert judge("s:\n  User|neq: x\ncondition: s", event(ProcessId=number)) is True
    assert judge("s:\n  User: '*'\ncondition: s", event(ProcessId=number)) is False
    assert judge("s:\n  User: ''\ncondition: s", event(ProcessId=number)) is False


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("nothing", "'nothing'"),
        ("1 of nothing_*", "nothing_"),
        ("sel_a and", "Expected"),
        ("sel_a | count() > 3", "pipe syntax"),
    ],
)
def test_a_bad_condition_is_an_error(condition: str, reason: str) -> None:
    with pytest.raises(RuleError, match=reason):
        rules(rule(f"{SELECTIONS}condition: {condition}"))
