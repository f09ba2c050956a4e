"""Samples: which rules need them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agentwatch.rules import samples
from agentwatch.rules.engine import Engine
from tests.rules.helpers import rule, rules


def no_traces(file: Path, make_engine: Callable[[int], Engine]) -> None:
    raise ValueError("a trace")


def test_a_rule_that_only_feeds_a_correlation_is_not_judged_by_its_samples(tmp_path: Path) -> None:
    counted = rule("s:\n  User: a\ncondition: s", "title: counted\nname: counted")
    twice = (
        "title: twice\ncorrelation:\n  type: event_count\n  rules: counted\n  timespan: 1m\n"
        "  condition:\n    gte: 2\n"
    )
    found = rules(counted, twice)
    found = replace(found, rules=tuple(replace(one, file="tactic/name.yml") for one in found.rules))
    folder = tmp_path / "tactic" / "name"
    folder.mkdir(parents=True)
    line = json.dumps({"category": "process_creation", "fields": {"User": "a"}}) + "\n"
    (folder / "hit.ndjson").write_text(2 * line)
    (folder / "miss.ndjson").write_text(line)
    results = list(samples.run(found, tmp_path, no_traces))
    assert [(one.rule.title, one.file.name, one.passed) for one in results] == [
        ("twice", "hit.ndjson", True),
        ("twice", "miss.ndjson", True),
    ]
