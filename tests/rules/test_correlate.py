"""Every type of correlation: hit, miss, undecided; grouping, windows, chains and bounds."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agentwatch.event import Event
from agentwatch.rules import correlate
from agentwatch.rules.engine import Engine, Match
from agentwatch.rules.model import RuleError
from tests.rules.helpers import event, rule, rules

BASE = "\n---\n".join(
    rule(
        f"s:\n  CommandLine|startswith: '{word}'\ncondition: s",
        head=f"title: base {word}\nname: base_{word}",
    )
    for word in ("aa", "bb", "cc")
)


def correlation(kind: str, lines: str, timespan: str = "10s", of: str = "[base_aa]") -> str:
    """A correlation document with these further lines."""
    rules_line = f"  rules: {of}\n" if of else ""
    more = "".join(f"  {line}\n" for line in lines.strip("\n").splitlines())
    return (
        f"title: c\nid: 00000000-0000-4000-8000-00000000000c\n"
        f"correlation:\n  type: {kind}\n{rules_line}  timespan: {timespan}\n{more}level: high\n"
    )


def run(document: str, events: Iterable[Event]) -> list[tuple[int, bool, tuple[int, ...]]]:
    """(seq of the event at which it was found, undecided, evidence) for each finding."""
    engine = Engine(rules(BASE + "\n---\n" + document))
    return [
        (one.seq, match.undecided, match.evidence)
        for one in events
        for match in engine.evaluate(one)
        if match.rule.kind == "correlation"
    ]


def line(words: str, step: float = 1.0) -> list[Event]:
    """An event for each word, `step` seconds apart, numbered from 1; a `~` cuts the command line."""
    return [
        event(
            time=number * step,
            seq=number,
            CommandLine=word.rstrip("~"),
            truncated=["CommandLine"] if "~" in word else [],
        )
        for number, word in enumerate(words.split(), 1)
    ]


def test_event_count() -> None:
    document = correlation("event_count", "condition:\n  gte: 3")
    assert run(document, line("aa aa aa")) == [(3, False, (1, 2, 3))]
    assert run(document, line("aa aa bb aa aa aa aa")) == [(4, False, (1, 2, 4)), (7, False, (5, 6, 7))]
    assert run(document, line("aa aa bb bb")) == []
    assert run(document, line("aa aa aa", step=6)) == []
    assert run(document, line("aa aa a~")) == [(3, True, (1, 2, 3))]


def test_an_undecided_finding_does_not_use_up_what_is_certain() -> None:
    document = correlation("event_count", "condition:\n  gte: 3")
    assert run(document, line("aa a~ aa a~ aa")) == [(3, True, (1, 2, 3)), (5, False, (1, 3, 5))]


def test_more_than() -> None:
    document = correlation("event_count", "condition:\n  gt: 2")
    assert run(document, line("aa aa aa")) == [(3, False, (1, 2, 3))]


@pytest.mark.parametrize(
    ("condition", "words", "hit"),
    [
        ("lt: 3", "aa aa", True),
        ("lt: 3", "aa aa aa", False),
        ("lte: 2", "aa aa", True),
        ("eq: 2", "aa aa", True),
        ("eq: 2", "aa aa aa", False),
        ("neq: 2", "aa", True),
        ("neq: 2", "aa aa", False),
    ],
)
def test_what_more_events_could_undo_is_decided_when_the_window_closes(
    condition: str, words: str, hit: bool
) -> None:
    document = correlation("event_count", f"condition:\n  {condition}")
    before = line(words)
    assert run(document, [*before, event(time=10.9, seq=8)]) == []
    found = run(document, [*before, event(category="dns_query", time=11, seq=9)])
    assert bool(found) == hit
    assert all(seq == 9 and not undecided for seq, undecided, _ in found)


def test_a_closing_window_with_undecided_matches_that_matter_is_undecided() -> None:
    document = correlation("event_count", "condition:\n  lt: 2")
    assert run(document, [*line("aa a~"), event(time=30, seq=9)]) == [(9, True, (1, 2))]


VALUES = "condition:\n  {}\n  field: User"


def values(words: str) -> list[Event]:
    """Events counted, each with one of these users; a `~` leaves it open whether it is counted."""
    return [
        event(
            time=number,
            seq=number,
            CommandLine="a" if "~" in word else "aa",
            truncated=["CommandLine"] if "~" in word else [],
            User=word.rstrip("~"),
        )
        for number, word in enumerate(words.split(), 1)
    ]


def test_value_count() -> None:
    document = correlation("value_count", VALUES.format("gte: 3"))
    assert run(document, values("x y y x z")) == [(5, False, (3, 4, 5))]
    assert run(document, values("x y x y x y")) == []
    assert run(document, values("x y z~")) == [(3, True, (1, 2, 3))]
    assert run(document, line("aa aa aa aa")) == []


def test_value_sum() -> None:
    document = correlation("value_sum", VALUES.format("gte: 10"))
    assert run(document, values("3 3.5 3.5")) == [(3, False, (1, 2, 3))]
    assert run(document, values("3 3 3 x")) == []
    assert run(document, values("3 7~")) == [(2, True, (1, 2))]


def test_value_avg() -> None:
    document = correlation("value_avg", VALUES.format("gte: 10"))
    after = event(time=30, seq=9)
    assert run(document, [*values("5 15 12"), after]) == [(9, False, (1, 2, 3))]
    assert run(document, [*values("15 3 2"), after]) == []
    assert run(document, [*values("15 3~"), after]) == [(9, True, (1, 2))]


def test_temporal() -> None:
    document = correlation("temporal", "", of="[base_aa, base_bb]")
    assert run(document, line("bb x aa")) == [(3, False, (1, 3))]
    assert run(document, line("bb bb")) == []
    assert run(document, line("bb x aa", step=6)) == []
    assert run(document, line("bb a~")) == [(2, True, (1, 2))]


def test_temporal_some_of() -> None:
    document = correlation("temporal", "condition:\n  gte: 2", of="[base_aa, base_bb, base_cc]")
    assert run(document, line("cc x aa")) == [(3, False, (1, 3))]
    assert run(document, line("cc x cc")) == []


def test_temporal_with_a_condition() -> None:
    document = correlation("temporal", "condition: base_aa and (base_bb or base_cc)", of="")
    assert run(document, line("cc x aa")) == [(3, False, (1, 3))]
    assert run(document, line("cc bb cc")) == []


def test_temporal_without_a_rule_is_decided_when_the_window_closes() -> None:
    document = correlation("temporal", "condition: base_aa and not base_bb", of="")
    after = event(time=30, seq=9)
    assert run(document, [*line("aa x"), after]) == [(9, False, (1,))]
    assert run(document, [*line("aa bb"), after]) == []
    assert run(document, [*line("aa b~"), after]) == [(9, True, (1, 2))]


def test_temporal_ordered() -> None:
    document = correlation("temporal_ordered", "", of="[base_aa, base_bb, base_cc]")
    assert run(document, line("aa bb cc")) == [(3, False, (1, 2, 3))]
    assert run(document, line("bb aa x bb cc")) == [(5, False, (2, 4, 5))]
    assert run(document, line("cc bb aa cc")) == []
    assert run(document, line("aa bb cc", step=6)) == []
    assert run(document, line("aa b~ cc")) == [(3, True, (1, 2, 3))]
    assert run(document, line("aa bb aa bb x cc", step=2.5)) == [(6, False, (3, 4, 6))]


def test_groups_are_counted_apart() -> None:
    document = correlation("event_count", "group-by: [User]\ncondition:\n  gte: 2")
    mixed = [event(time=i, seq=i, CommandLine="aa", User=user) for i, user in enumerate(["x", "y", "x"], 1)]
    assert run(document, mixed) == [(3, False, (1, 3))]
    engine = Engine(rules(BASE + "\n---\n" + document))
    groups = [match.group for one in mixed for match in engine.evaluate(one)]
    assert groups == [(("User", ("x",)),)]


def test_agents_are_never_counted_together() -> None:
    document = correlation("event_count", "condition:\n  gte: 2")
    assert run(document, [event(seq=1, CommandLine="aa"), event(seq=2, agent="b", CommandLine="aa")]) == []


def test_aliases_name_the_field_of_each_rule() -> None:
    document = correlation(
        "temporal",
        "group-by: [who]\naliases:\n  who:\n    base_aa: User\n    base_bb: CurrentDirectory",
        of="[base_aa, base_bb]",
    )
    first = event(time=1, seq=1, CommandLine="aa", User="x", CurrentDirectory="y")
    assert run(document, [first, event(time=2, seq=2, CommandLine="bb", CurrentDirectory="x")]) == [
        (2, False, (1, 2))
    ]
    assert run(document, [first, event(time=2, seq=2, CommandLine="bb", CurrentDirectory="y")]) == []


def test_chains() -> None:
    inner = correlation("event_count", "condition:\n  gte: 2").replace(
        "title: c", "title: inner\nname: inner"
    )
    outer = correlation("temporal_ordered", "", of="[inner, base_bb]", timespan="1m").replace("00c", "00d")
    assert run(inner + "---\n" + outer, line("aa aa bb")) == [(3, False, (1, 2, 3))]
    assert run(inner + "---\n" + outer, line("aa bb aa")) == []


def matches(document: str, words: str) -> list[Match]:
    """All matches of the base rules and the correlation."""
    engine = Engine(rules(BASE + "\n---\n" + document))
    return [match for one in line(words) for match in engine.evaluate(one)]


def test_rules_counted_are_silent_unless_told_otherwise() -> None:
    document = correlation("event_count", "condition:\n  gte: 2")
    assert [match.rule.title for match in matches(document, "aa aa bb")] == ["c", "base bb"]
    loud = correlation("event_count", "generate: true\ncondition:\n  gte: 2")
    assert [match.rule.title for match in matches(loud, "aa aa")] == ["base aa", "base aa", "c"]


def test_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlate, "MAX_GROUPS", 10)
    document = correlation("event_count", "group-by: [User]\ncondition:\n  gte: 2", timespan="1d")
    engine = Engine(rules(BASE + "\n---\n" + document))

    def found(seq: int, user: str) -> int:
        return len(engine.evaluate(event(time=seq, seq=seq, CommandLine="aa", User=user)))

    found(1, "first")
    for seq in range(2, 11):
        found(seq, f"user{seq}")
    assert engine.evicted == {}
    assert found(11, "first") == 1  # still known, and now the one touched last
    for seq in range(12, 21):
        found(seq, f"user{seq}")
    assert engine.evicted == {"00000000-0000-4000-8000-00000000000c": 9}
    assert found(21, "user2") == 0  # evicted: counted anew


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlate, "MAX_ENTRIES", 5)
    document = correlation("value_count", VALUES.format("gte: 100"), timespan="1d")
    engine = Engine(rules(BASE + "\n---\n" + document))
    for one in values("u v w x y z"):
        engine.evaluate(one)
    assert engine.evicted == {"00000000-0000-4000-8000-00000000000c": 1}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (correlation("event_count", "condition:\n  gte: 2", of="[nothing]"), "'nothing', which is no rule"),
        (correlation("value_median", VALUES.format("gte: 2")), "'value_median' cannot be evaluated"),
        (correlation("event_count", "condition:\n  gte: 2000"), "at most"),
        (correlation("temporal_ordered", "condition: base_aa or base_bb", of=""), "in order"),
        (correlation("event_count", "condition:\n  gte: 2", timespan="soon"), "Timespan"),
        (correlation("event_count", ""), "without condition"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(document: str, reason: str) -> None:
    with pytest.raises(RuleError, match=reason):
        rules(BASE + "\n---\n" + document)


def test_rings_of_correlations_are_an_error() -> None:
    one = correlation("event_count", "condition:\n  gte: 2", of="[two]").replace(
        "title: c", "title: c\nname: one"
    )
    two = one.replace("00c", "00d").replace("name: one", "name: two").replace("[two]", "[one]")
    with pytest.raises(RuleError, match="counts itself"):
        rules(one + "---\n" + two)
