"""Every modifier, and every kind of value: a hit, a miss, and where a cut value leaves it open."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from agentwatch.event import Value
from agentwatch.rules.engine import Engine
from agentwatch.rules.match import regex
from agentwatch.rules.model import RuleError
from tests.rules.helpers import event, judge, rule, rules, verdict


class Case(NamedTuple):
    """A line of a selection over `F`, with values that hit, miss, and are undecided when cut."""

    line: str
    hit: Value
    miss: Value
    undecided: Value


HELLO = "hello wide"
WIDE = HELLO.encode("utf-16le").decode()

CASES: Mapping[str, Case] = {
    "equal": Case("CommandLine: 'a b'", "A b", "a b c", "a "),
    "equal, one of": Case("CommandLine: ['x', 'a b']", "a b", "y", "a"),
    "equal to a number": Case("CommandLine: 777", "777", "7770", "77"),
    "equal to a boolean": Case("CommandLine: true", True, False, "tr"),
    "empty": Case("CommandLine: ''", "", "x", ""),
    "wildcard *": Case("CommandLine: '/etc/*/x*.conf'", "/etc/a/b/x1.conf", "/etc/x.cfg", "/etc/a/x"),
    "wildcard * at the end": Case("CommandLine: 'a*c*'", "abcd", "bac", "ab"),
    "wildcard ?": Case("CommandLine: 'a?c'", "a€C", "abbc", "a"),
    "escaped wildcard": Case(r"CommandLine: 'a\*c'", "a*c", "abc", "a"),
    "contains": Case("CommandLine|contains: 'need'", "a NEEDle", "a nee dle", "a nee"),
    "contains, one of": Case("CommandLine|contains: ['x1', 'need']", "a needle", "x", "a"),
    "startswith": Case("CommandLine|startswith: 'abc'", "ABCD", "xabc", "ab"),
    "endswith": Case("CommandLine|endswith: 'abc'", "xABC", "abcx", "abc"),
    "all": Case("CommandLine|contains|all: ['aa', 'bb']", "bb aa", "aa", "aa"),
    "neq": Case("CommandLine|neq: 'aa'", "ab", "AA", "a"),
    "cased": Case("CommandLine|cased: 'Ab'", "Ab", "ab", "A"),
    "contains|cased": Case("CommandLine|contains|cased: 'Ab'", "xAbx", "xabx", "x"),
    "wildcard cased": Case("CommandLine|cased: 'A*b?'", "A1bc", "a1bc", "A1"),
    "re": Case(r"CommandLine|re: 'n[ce]+t?\s+-e'", "xx ncc -e", "xx nx -e", "xx nc"),
    "re without flags has case": Case("CommandLine|re: 'abc'", "xabc", "xABC", "ab"),
    "re|i": Case("CommandLine|re|i: 'abc'", "xABC", "xAB", "xAB"),
    "re|m": Case("CommandLine|re|m: '^b$'", "a\nb\nc", "a b c", "a\nb"),
    "re|s": Case("CommandLine|re|s: 'a.b'", "a\nb", "a\n\nb", "a\n"),
    "re over any byte": Case("CommandLine|re: 'a.+b'", "a\udcff\ud800b", "ab", "a\udcff"),
    "re beyond ASCII": Case("CommandLine|re: 'a[äö]b'", "aöb", "aob", "aä"),
    "cidr": Case("CommandLine|cidr: '10.0.0.0/8'", "10.1.2.3", "11.1.2.3", "10.1"),
    "cidr, IPv6": Case("CommandLine|cidr: 'fe80::/10'", "fe80::1%eth0", "::1", "fe80"),
    "cidr, IPv4 in IPv6": Case("CommandLine|cidr: ['10.0.0.0/8']", "::ffff:10.1.2.3", "x", "::ffff:10"),
    "lt": Case("ProcessId|lt: 10", 9, 10, "1"),
    "lte": Case("ProcessId|lte: 10", 10, 11, "1"),
    "gt": Case("ProcessId|gt: 10", 10.5, 10, "1"),
    "gte": Case("ProcessId|gte: 10", "10", "ten", "1"),
    "null": Case("CommandLine: null", None, "", None),
    "exists": Case("Argv#1|exists: true", ("a", ""), ("a",), ("a",)),
    "exists: false": Case("Argv#1|exists: false", None, ("a", "b"), ("a",)),
    "base64": Case("CommandLine|base64: 'abcdef'", base64.b64encode(b"abcdef").decode(), "abcdef", "YWJj"),
    "base64|contains": Case("CommandLine|base64|contains: 'abcdef'", "x YWJjZGVm y", "abcdef", "x YWJj"),
    "base64offset": Case(
        "CommandLine|base64offset|contains: 'evil.example'",
        "echo " + base64.b64encode(b"x evil.example").decode(),
        "echo evil.example",
        "echo " + base64.b64encode(b"x evil").decode(),
    ),
    "wide": Case(f"CommandLine|wide|contains: '{HELLO}'", f"x{WIDE}", HELLO, f"x{WIDE[:4]}"),
    "wide|base64offset": Case(
        f"CommandLine|wide|base64offset|contains: '{HELLO}'",
        base64.b64encode(HELLO.encode("utf-16le")).decode(),
        base64.b64encode(HELLO.encode()).decode(),
        "aABl",
    ),
    "utf16be": Case(
        f"CommandLine|utf16be|contains: '{HELLO}'", HELLO.encode("utf-16be").decode(), HELLO, "\0h"
    ),
    "windash": Case("CommandLine|windash|contains: ' -x'", "tool \N{EN DASH}x", "tool x", "tool"),
    "fieldref": Case("CommandLine|fieldref: User", "Me", "you", "m"),
    "fieldref|startswith": Case("CommandLine|fieldref|startswith: User", "me too", "not me", "m"),
    "fieldref|endswith": Case("CommandLine|fieldref|endswith: User", "not me", "me too", "me"),
    "fieldref|contains": Case("CommandLine|fieldref|contains: User", "some", "so", "so"),
    "expand": Case("CommandLine|expand: 'run %tool%'", "run nmap", "run %tool%", "run "),
    "expand|contains": Case("CommandLine|contains|expand: '/%tool% '", "/bin/masscan -p", "/bin/ls ", "/bin"),
    "list, some element": Case("Argv: '-e'", ("nc", "-E"), ("nc", "-e1"), ("nc",)),
    "list, an element by number": Case("Argv#1: 'xx'", ("a", "XX"), ("xx", "a"), ("a", "x")),
    "list, an element beyond the cut": Case("Argv#2|contains: 'xx'", ("a", "b", "xx"), ("xx",), ("a",)),
}

LISTS = {"tool": "# scanners\nnmap\n\nmasscan\n"}


def fields(case: Case, value: Value) -> dict[str, Value]:
    """The field named by the case's line with this value, and a user to compare with."""
    name = case.line.partition(":")[0].partition("|")[0].partition("#")[0]
    others: dict[str, Value] = {"User": "me"}
    return others if value is None else {**others, name: value}


def the_field(case: Case) -> str:
    """The field that the case is about."""
    return case.line.partition(":")[0].partition("|")[0].partition("#")[0]


@pytest.mark.parametrize("op", ["startswith", "endswith"])
def test_many_words_are_matched_like_few(op: str) -> None:
    words = [f"{'abcdefgh'[number % 8]}{number}" for number in range(0, 3000, 7)]
    detection = f"s:\n  CommandLine|{op}|expand: '%many%'\ncondition: s"
    engine = Engine(rules(rule(detection), many="\n".join(words)))
    holds = str.startswith if op == "startswith" else str.endswith
    for text in ("a0", "A0", "a", "b7x", "xb7", "xb", "b", "h2989", "zh2989z", "", "7", "ab7", "g14g14"):
        expected = any(holds(text.lower(), word) for word in words)
        assert verdict(engine.evaluate(event(CommandLine=text))) is expected, text
    cut = event(CommandLine="h29", truncated=["CommandLine"])
    assert verdict(engine.evaluate(cut)) is None


@pytest.mark.parametrize("name", CASES)
def test_hit(name: str) -> None:
    case = CASES[name]
    assert judge(f"s:\n  {case.line}\ncondition: s", event(values=fields(case, case.hit)), **LISTS) is True


@pytest.mark.parametrize("name", CASES)
def test_miss(name: str) -> None:
    case = CASES[name]
    assert judge(f"s:\n  {case.line}\ncondition: s", event(values=fields(case, case.miss)), **LISTS) is False


@pytest.mark.parametrize("name", CASES)
def test_undecided(name: str) -> None:
    case = CASES[name]
    cut = event(truncated=[the_field(case)], values=fields(case, case.undecided))
    assert judge(f"s:\n  {case.line}\ncondition: s", cut, **LISTS) is None


@pytest.mark.parametrize(
    ("line", "known", "expected"),
    [
        ("CommandLine|contains: 'need'", "a needle ", True),
        ("CommandLine|startswith: 'abc'", "abcd", True),
        ("CommandLine|startswith: 'abc'", "abd", False),
        ("CommandLine: 'abc'", "abd", False),
        ("CommandLine: 'abc*def'", "abd", False),
        ("CommandLine: 'a*c*'", "abcd", True),
        ("CommandLine|re: 'a+b'", "xaab", True),
        ("CommandLine|re: 'a+b$'", "xaab", None),
        ("CommandLine|neq: 'abc'", "abd", True),
        ("CommandLine: null", "a", False),
        ("CommandLine|exists: true", "a", True),
        ("CommandLine|exists: false", None, False),
        ("Argv: 'nc'", ("nc", "-"), True),
        ("Argv#0: 'nc'", ("nc", "-"), True),
    ],
)
def test_the_known_beginning_of_a_cut_value_decides(line: str, known: Value, expected: bool | None) -> None:
    name = line.partition(":")[0].partition("|")[0].partition("#")[0]
    cut = event(truncated=[name], values={name: known})
    assert judge(f"s:\n  {line}\ncondition: s", cut) is expected


def test_a_cut_reference_is_undecided() -> None:
    cut = event(CommandLine="x", User="x", truncated=["User"])
    assert judge("s:\n  CommandLine|fieldref: User\ncondition: s", cut) is None


@pytest.mark.parametrize("modifier", ["minute", "hour", "day", "week", "month", "year"])
def test_parts_of_times_are_refused(modifier: str) -> None:
    with pytest.raises(RuleError, match="no field that is a time"):
        rules(rule(f"s:\n  CommandLine|{modifier}: 3\ncondition: s"))


def test_an_expression_that_needs_backtracking_is_refused() -> None:
    with pytest.raises(RuleError, match=r"rule0.yml:7: .*invalid perl operator"):
        rules(rule("s:\n  CommandLine|re: 'a(?=b)'\ncondition: s"))


def test_a_missing_list_is_named() -> None:
    with pytest.raises(RuleError, match=r"lists/tool\.txt"):
        rules(rule("s:\n  CommandLine|expand: '%tool%'\ncondition: s"))


def test_a_pattern_with_more_states_than_memory_finds_what_is_there() -> None:
    """Each text of so many letters is another state: RE2 throws away those that it has, and goes on."""
    dice = random.Random(1)
    text = "".join(dice.choices("ab", k=50_000))
    matches = regex("a[ab]{200}c")
    assert not matches(text.encode())
    assert matches(f"{text}a{'b' * 200}c".encode())
