"""What `check` finds odd, and that it keeps quiet about what is not."""

from __future__ import annotations

import pytest

from agentwatch.rules.check import exemption_warnings, warnings
from agentwatch.rules.expr import Expr
from agentwatch.rules.model import Exemption
from tests.rules.helpers import rule, rules

ODD = [
    ("s:\n  User: a\nt:\n  User: b\ncondition: s", "selection t is not used"),
    ("s:\n  CommandLine|contains: ['ab', 'xaBy']\ncondition: s", "contains 'xaBy' is unreachable: 'ab'"),
    ("s:\n  Image|endswith: ['sh', '/bash']\ncondition: s", "endswith '/bash' is unreachable"),
    ("s:\n  Image|startswith: ['/tmp/', '/tmp/x']\ncondition: s", "startswith '/tmp/x' is unreachable"),
    ("s:\n  User: a\nt:\n  User: b\ncondition: s and t", "can never hold: User eq 'a' and User eq 'b'"),
    ("s:\n  User: a\ncondition: s and not s", "always false"),
    ("s:\n  User: a\ncondition: s or not s", "always true"),
    ("s:\n  User: a\nt:\n  User: a\ncondition: s and t", "User eq 'a' stands twice"),
    ("s:\n  - User: abc\n  - User|contains: b\ncondition: s", "User eq 'abc' is unreachable"),
    ("s:\n  - User|endswith: abc\n  - User|contains: b\ncondition: s", "User endswith 'abc' is unreachable"),
]

EVEN = [
    "s:\n  CommandLine|contains: ['ab', 'ac']\ncondition: s",
    "s:\n  CommandLine|contains|cased: ['ab', 'xAB']\ncondition: s",
    "s:\n  CommandLine|contains|all: ['ab', 'xab']\ncondition: s",
    "s:\n  User: [a, b]\nt:\n  User: [b, c]\ncondition: s and t",
    "s:\n  User: a\nt:\n  Image: a\ncondition: s and not t",
    "s:\n  Argv: a\nt:\n  Argv: b\ncondition: s and t",
    "s:\n  - User: abc\n  - Image|contains: b\ncondition: s",
]


@pytest.mark.parametrize(("detection", "text"), ODD)
def test_odd(detection: str, text: str) -> None:
    assert any(text in warning for _, warning in warnings(rules(rule(detection))))


@pytest.mark.parametrize("detection", EVEN)
def test_even(detection: str) -> None:
    assert warnings(rules(rule(detection))) == []


def test_the_same_condition_twice() -> None:
    one = rule("s:\n  User: a\ncondition: s", head="title: one")
    two = rule("s:\n  User: a\ncondition: s", head="title: two")
    (found,) = warnings(rules(one, two))
    assert "is the same as that of" in found[1]


def test_exceptions_that_cover_nothing_are_named() -> None:
    def exemption(condition: Expr, expires: int) -> Exemption:
        return Exemption(("id",), condition, "a reason", expires, "e.yml", 1)

    known = ("and", ("atom", "@agent", "eq", ("a",)), ("atom", "User", "eq", ("u",)))
    assert not list(exemption_warnings([exemption(known, expires=11)], now=10))
    ((_, expired),) = exemption_warnings([exemption(known, expires=10)], now=10)
    assert expired == "the exception has expired"
    ((_, unknown),) = exemption_warnings([exemption(("atom", "Nonsense", "eq", ("x",)), expires=11)], now=10)
    assert "no source tells Nonsense" in unknown
