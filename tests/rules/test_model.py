"""Rule sets as bytes: whole ones survive, and whatever an enemy's trace holds is a ValueError."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from tests.rules.helpers import event, rule, rules

DETECTION = """
s:
  - CommandLine|contains: ['a', 'b']
    User|re|i: 'x+'
  - Image: '/a*b?'
  - ProcessId|gt: 5
  - User: null
  - User|exists: false
  - User|fieldref: Image
  - CommandLine|cidr: '10.0.0.0/8'
  - ProcessId: 7
condition: not s
"""
CORRELATION = """---
title: c
correlation:
  type: temporal
  condition: one and not two
  group-by: [User]
  timespan: 1m
  aliases:
    User: {one: User}
"""


@pytest.fixture(scope="module")
def whole() -> RuleSet:
    """A set with all that a set can hold."""
    return rules(
        rule(DETECTION, head="title: one\nname: one")
        + "---\n"
        + rule("s:\n  User: x\ncondition: s", head="title: two\nname: two")
        + CORRELATION
        + "---\n"
        + rule("s:\n  key: x\ncondition: s", head="title: refused").replace(
            "category: process_creation", "service: auditd"
        )
    )


def test_a_set_survives(whole: RuleSet) -> None:
    assert whole.refused and any(one.correlation for one in whole.rules)
    again = RuleSet.from_bytes(whole.to_bytes())
    assert again == whole
    assert again.to_bytes() == whole.to_bytes()


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change: the last of the path put in place of what the rest leads to."""

    def change(plain: dict[str, Any]) -> None:
        place: Any = plain
        *way, last, value = path
        for step in way:
            place = place[step]
        place[last] = value

    return change


CONDITION = ("rules", 0, "conditions", "process_creation")
CHANGES = [
    put("ir", 99),
    put("rules", 7),
    put("rules", 0, "title", 7),
    put("rules", 0, "nonsense", 7),
    put("rules", 0, "tags", None),
    put("rules", 0, "conditions", 7),
    put("rules", 0, "correlation", {"type": "odd"}),
    put("exemptions", [{"rules": 7}]),
    put("refused", [7]),
    *(
        put(*CONDITION, condition)
        for condition in (
            7,
            (),
            ("and",),
            ("xor", ("const", True)),
            ("not", ("const", True), ("const", True)),
            ("sel", "s"),
            ("const", 1),
            ("atom", "User", "eq", "text"),
            ("atom", "User", "eq", ()),
            ("atom", "User", "shouts", ("x",)),
            ("atom", "User", "re_cased", ("x", "")),
            ("atom", "User", "re", ("x", "z")),
            ("atom", "User", "wild", ("", 0)),
            ("atom", "User", "wild", (2,)),
            ("atom", "User#x", "eq", ("x",)),
            ("atom", "User", "fieldref", ("x", "shouts")),
            ("rule", "x"),
        )
    ),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_set_is_a_value_error(whole: RuleSet, change: Callable[[dict[str, Any]], None]) -> None:
    plain = msgpack.unpackb(whole.to_bytes())
    change(plain)
    with pytest.raises(ValueError):
        RuleSet.from_bytes(msgpack.packb(plain))


def test_a_condition_nested_without_end_is_a_value_error(whole: RuleSet) -> None:
    plain = msgpack.unpackb(whole.to_bytes())
    deep: Any = ("const", True)
    for _ in range(300):
        deep = ("not", deep)
    put(*CONDITION, deep)(plain)
    with pytest.raises(ValueError):
        RuleSet.from_bytes(msgpack.packb(plain))


@given(st.binary(max_size=64))
def test_other_bytes_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        RuleSet.from_bytes(data)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_bytes_are_a_value_error_or_can_be_evaluated(
    whole: RuleSet, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(whole.to_bytes())
    for place, value in damage:
        data[place % len(data)] = value
    with suppress(ValueError):
        engine = Engine(RuleSet.from_bytes(bytes(data)))
        engine.evaluate(event(User="xx", CommandLine="a", Image="/a1bc", ProcessId=3))
