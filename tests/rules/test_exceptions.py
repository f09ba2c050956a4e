"""Operators' exceptions: whom they cover, until when, and what is wrong with a file of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentwatch.event import Event, Value
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.lower import lower
from agentwatch.rules.model import NANOSECONDS, RuleError, RuleSet
from tests.rules.helpers import event, rule

RULES = "---\n".join(
    [
        rule("s:\n  CommandLine: x\ncondition: s", head="title: first\nname: first"),
        rule("s:\n  CommandLine: x\ncondition: s", head="title: second\nname: second"),
    ]
)
HASH = "ab" * 32
END = 1_801_440_000  # 2027-02-01T00:00:00Z


def exempt(lines: str, rest: str = "reason: a test\n    expires: 2027-01-31") -> RuleSet:
    """Two rules and one exception with these lines."""
    text = f"exceptions:\n  - {lines}\n    {rest}\n"
    found, problems = lower({"r.yml": RULES.encode()}, {}, {"e.yml": text.encode()})
    if problems:
        raise RuleError(*problems)
    return found


def told(found: RuleSet, of: Event, clock_offset: int = 0) -> list[str]:
    """Titles of the rules that match."""
    return [match.rule.title for match in Engine(found, clock_offset=clock_offset).evaluate(of)]


BY: list[tuple[str, dict[str, Value], dict[str, Value]]] = [
    ("user: alice", {"User": "alice"}, {"User": "bob"}),
    ("user: [carol, alice]", {"User": "alice"}, {"User": "bob"}),
    (f"image_sha256: {HASH}", {"ImageSha256": HASH}, {"ImageSha256": "0" * 64}),
    ("destination: 10.0.0.0/8", {"DestinationIp": "10.1.1.1"}, {"DestinationIp": "11.1.1.1"}),
    ("destination: 'fd00::/8'", {"DestinationIp": "fd00::1"}, {}),
    (
        "destination: '*.a.example'",
        {"DestinationHostname": "x.a.example"},
        {"DestinationHostname": "a.example"},
    ),
    (
        "destination: [10.0.0.0/8, a.example]",
        {"DestinationIp": "1.1.1.1", "DestinationHostname": "A.example"},
        {"DestinationHostname": "b.example"},
    ),
    (
        "user: alice\n    destination: a.example",
        {"User": "alice", "DestinationHostname": "a.example"},
        {"User": "alice"},
    ),
]


@pytest.mark.parametrize(("lines", "covered", "other"), BY)
def test_what_is_covered_is_not_told(lines: str, covered: dict[str, Value], other: dict[str, Value]) -> None:
    found = exempt(f"rule: first\n    {lines}")
    assert told(found, event(values={"CommandLine": "x", **covered})) == ["second"]
    assert sorted(told(found, event(values={"CommandLine": "x", **other}))) == ["first", "second"]


def test_by_agent() -> None:
    found = exempt("rule: [first, second]\n    agent: bench-*")
    assert told(found, event(agent="bench-1", CommandLine="x")) == []
    assert len(told(found, event(agent="work", CommandLine="x"))) == 2
    # A field of an event cannot pose as the agent's name.
    assert len(told(found, event(agent="work", CommandLine="x", values={"@agent": "bench-1"}))) == 2


def test_a_cut_value_covers_nothing() -> None:
    found = exempt("rule: first\n    user: alice")
    assert len(told(found, event(CommandLine="x", User="alice", truncated=["User"]))) == 2


@pytest.mark.parametrize(
    ("expires", "last"),
    [("2027-01-31", END), ("2027-01-31T12:00:00Z", END - 43200), ("2027-01-31T12:00:00+02:00", END - 50400)],
)
def test_it_ends_by_event_time(expires: str, last: int) -> None:
    found = exempt("rule: [first, second]\n    user: alice", f"reason: a test\n    expires: {expires}")
    booted = 1_700_000_000
    for second, count in [(last - 1, 0), (last, 2)]:
        of = event(time=second - booted, CommandLine="x", User="alice")
        assert len(told(found, of, clock_offset=booted * NANOSECONDS)) == count


def test_what_is_covered_is_not_counted_by_correlations_and_is_itself_counted() -> None:
    correlation = (
        "title: c\nname: c\ncorrelation:\n  type: event_count\n  rules: first\n"
        "  timespan: 1m\n  condition:\n    gte: 2\n"
    )
    text = "exceptions:\n  - {rule: first, user: alice, reason: r, expires: 2027-01-31}\n"
    found, problems = lower({"r.yml": f"{RULES}---\n{correlation}".encode()}, {}, {"e.yml": text.encode()})
    assert not problems
    engine = Engine(found)
    for seq, user in enumerate(["alice", "alice", "bob"], 1):
        assert not [
            m for m in engine.evaluate(event(seq=seq, CommandLine="x", User=user)) if m.rule.title == "c"
        ]
    assert engine.excepted == 2


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[]", 1, "one key, exceptions"),
        ("exceptions: {}\n", 1, "one key, exceptions"),
        ("exceptions:\n  - x\n", 2, "is a mapping"),
        ("exceptions: [\n", 2, "did not find"),
        ("exceptions:\n  - {[]: x}\n", 1, "unhashable"),
        ("exceptions:\n\n  - {rule: first, user: a, expires: 2027-01-31}\n", 3, "reason is missing"),
        ("exceptions:\n  - {rule: first, user: a, reason: r}\n", 2, "expires takes a date"),
        ("exceptions:\n  - {rule: first, user: a, reason: r, expires: soon}\n", 2, "expires takes a date"),
        ("exceptions:\n  - {rule: first, reason: r, expires: 2027-01-31}\n", 2, "of nobody"),
        ("exceptions:\n  - {rule: none, user: a, reason: r, expires: 2027-01-31}\n", 2, "'none' is no rule"),
        ("exceptions:\n  - {user: a, reason: r, expires: 2027-01-31}\n", 2, "rule takes a text"),
        ("exceptions:\n  - {rule: first, usr: a, reason: r, expires: 2027-01-31}\n", 2, "unknown: usr"),
        ("exceptions:\n  - {rule: first, user: '*', reason: r, expires: 2027-01-31}\n", 2, "is everybody"),
        ("exceptions:\n  - {rule: first, user: 7, reason: r, expires: 2027-01-31}\n", 2, "user takes a text"),
        (
            "exceptions:\n  - {rule: first, image_sha256: ab, reason: r, expires: 2027-01-31}\n",
            2,
            "no SHA-256",
        ),
        (
            "exceptions:\n  - {rule: first, destination: 10.0.0.1/8, reason: r, expires: 2027-01-31}\n",
            2,
            "neither",
        ),
        (
            "exceptions:\n  - {rule: first, destination: 'a:22', reason: r, expires: 2027-01-31}\n",
            2,
            "neither",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, line: int, reason: str) -> None:
    (tmp_path / "rules.yml").write_text(RULES)
    bad = tmp_path / "exceptions"
    bad.write_text(text)
    with pytest.raises(RuleError) as caught:
        load_rules([tmp_path / "rules.yml"], tmp_path / "cache", [bad])
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(bad), line)
    assert reason in problem.reason


def test_they_travel_with_the_set_and_are_part_of_its_digest(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(RULES)
    file = tmp_path / "exceptions.yml"
    file.write_text("exceptions:\n  - {rule: first, user: alice, reason: r, expires: 2027-01-31}\n")
    found = load_rules([tmp_path / "rules.yml"], tmp_path / "cache", [file])
    assert RuleSet.from_bytes(found.to_bytes()) == found
    assert found.digest != load_rules([tmp_path / "rules.yml"], tmp_path / "cache").digest
    file.write_text("")
    assert load_rules([tmp_path / "rules.yml"], tmp_path / "cache", [file]).exemptions == ()


def test_an_end_that_no_clock_reaches_is_refused() -> None:
    with pytest.raises(RuleError, match="too far away"):
        exempt("rule: [first]\n    user: alice", "reason: a test\n    expires: 2999-01-01")
