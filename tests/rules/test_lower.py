"""Lowering: Sigma filters, and files that make no sense."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.rules.engine import Engine
from agentwatch.rules.lower import lower
from agentwatch.rules.model import RuleError, RuleSet
from tests.rules.helpers import event, rule, rules, verdict

NAMED = rule("s:\n  User: root\ncondition: s", head="title: a rule\nname: named")
FILTER = """title: a filter
logsource:
  category: process_creation
  product: linux
filter:
  rules: [named]
  selection:
    Image|endswith: '/sudo'
  condition: not selection
"""


def test_a_filter_narrows_the_rules_that_it_names() -> None:
    found = rules(NAMED, FILTER)
    assert len(found.rules) == 1
    assert verdict(Engine(found).evaluate(event(User="root", Image="/bin/sh"))) is True
    assert verdict(Engine(found).evaluate(event(User="root", Image="/bin/sudo"))) is False


def test_a_rule_without_id_has_one_that_stays() -> None:
    assert rules(NAMED).rules[0].id == rules(NAMED + "# changed\n").rules[0].id


def test_a_condition_nested_too_deeply_is_an_error() -> None:
    deep = "x"
    for _ in range(150):
        deep = f"[{deep}, {{User: y, Image: z}}]"
    with pytest.raises(RuleError, match="deep"):
        rules(rule(f"s: {deep}\ncondition: s"))


HEAD = """title: t
id: 11111111-1111-4111-8111-111111111111
tags: [attack.t1572]
agentwatch: {response: kill}"""
WHOLE = rule(
    "s:\n  CommandLine|contains|all: ['a', 'b*c']\n  User|re: 'x+'\ncondition: s and not 1 of s*", head=HEAD
).encode()
PIECES = st.sampled_from(
    [b"", b"|all", b"|re", b"[", b"]: ", b"- ", b"null", b"*a", b"&a ", b"\0", b"{", b"9", b"\xff"]
)


def test_the_file_that_is_spoilt_below_is_sound() -> None:
    assert len(rules(WHOLE.decode()).rules) + len(rules(WHOLE.decode()).refused) == 1


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), PIECES), min_size=1, max_size=4))
def test_whatever_stands_in_a_file_is_a_rule_or_a_problem(edits: list[tuple[int, int, bytes]]) -> None:
    content = WHOLE
    for place, length, piece in edits:
        content = content[:place] + piece + content[place + length :]
    found, problems = lower({"f.yml": content}, {}, {"e.yml": content})
    assert problems  # it is no file of exceptions, whatever else
    assert all(problem.line >= 1 and problem.reason for problem in problems)
    assert RuleSet.from_bytes(found.to_bytes()) == found
    Engine(found)
