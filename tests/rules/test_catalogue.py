"""The catalogue in the documentation is that of the rules."""

from __future__ import annotations

from pathlib import Path

from agentwatch.resources import RULES
from agentwatch.rules.catalogue import markdown
from agentwatch.rules.load import load_rules
from tests.rules.helpers import rule, rules


def test_the_documentation_is_up_to_date(tmp_path: Path) -> None:
    written = (RULES.parent / "docs" / "rules.md").read_text(encoding="utf-8")
    made = markdown(load_rules([RULES], cache=tmp_path))
    assert written == made, "run: python -m agentwatch.rules.catalogue > docs/rules.md"


def test_a_correlation_shows_what_the_rules_that_it_counts_look_at() -> None:
    counted = rule("s:\n  Image: /bin/a\n  Argv#1: b\ncondition: s", "title: counted\nname: counted")
    correlation = (
        "title: Many of Them\ntags: [attack.t1496.001]\ncorrelation:\n  type: event_count\n"
        "  rules: counted\n  timespan: 1m\n  condition:\n    gte: 5\n"
    )
    made = markdown(rules(counted, correlation))
    assert "### Many of Them" in made and "### counted" not in made
    assert "- looks at process_creation (`Argv#1`, `Image`)" in made
    assert "[T1496.001](https://attack.mitre.org/techniques/T1496/001/)" in made
