"""The engine as a whole: which events it wants, in which order it answers, and that hashes do not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from tests.rules.helpers import event, rule, rules

TWO = "---\n".join(
    rule(
        f"s:\n  User: {user}\ncondition: s",
        head=f"title: {user}\nid: {digit * 8}-1111-4111-8111-111111111111",
    )
    for digit, user in (("2", "root"), ("1", "ro*"))
)


def test_categories_are_those_of_the_rules() -> None:
    found = rules(
        rule("s:\n  User: x\ncondition: s"), rule("s:\n  QueryName: x\ncondition: s", "title: q", "dns_query")
    )
    assert Engine(found).categories == found.categories == {"process_creation", "dns_query"}


def test_an_event_of_another_category_matches_nothing() -> None:
    assert Engine(rules(TWO)).evaluate(event("flow", User="root")) == []
    assert Engine(rules()).evaluate(event(User="root")) == []


def test_matches_come_in_the_order_of_ids() -> None:
    found = Engine(rules(TWO)).evaluate(event(User="root", seq=7))
    assert [match.rule.title for match in found] == ["ro*", "root"]
    assert [match.evidence for match in found] == [(7,), (7,)]


def test_verdicts_do_not_depend_on_the_seed_of_hashes(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(
        TWO
        + "---\ntitle: c\ncorrelation:\n  type: value_count\n  rules: [22222222-1111-4111-8111-111111111111]"
        "\n  group-by: [Image]\n  timespan: 1m\n  condition: {gte: 3, field: ProcessId}\n"
    )
    load_rules([tmp_path / "rules.yml"], tmp_path / "cache")
    code = (
        "from pathlib import Path; from agentwatch.rules.load import load_rules\n"
        "from agentwatch.rules.engine import Engine; from agentwatch.event import Event\n"
        f"rules = load_rules([Path({str(tmp_path / 'rules.yml')!r})], Path({str(tmp_path / 'cache')!r}))\n"
        "engine = Engine(rules)\n"
        "for i in range(200):\n"
        "    fields = {'User': ['root', 'rod', 'me'][i % 3], 'Image': f'/x{i % 7}', 'ProcessId': i}\n"
        "    cut = frozenset({'User', 'Image'}) if i % 5 == 0 else frozenset()\n"
        "    of = Event('process_creation', i, i, 'a', fields, cut)\n"
        "    print([(m.rule.id, m.undecided, m.evidence, m.group) for m in engine.evaluate(of)])\n"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(printed) == 1
    assert b"value" not in next(iter(printed)) and b"Image" in next(iter(printed))
