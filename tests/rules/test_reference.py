"""The field reference in the documentation is that of the schema."""

from __future__ import annotations

from agentwatch.resources import RULES
from agentwatch.rules.reference import markdown


def test_the_documentation_is_up_to_date() -> None:
    written = (RULES.parent / "docs" / "rule-fields.md").read_text(encoding="utf-8")
    assert written == markdown(), "run: python -m agentwatch.rules.reference > docs/rule-fields.md"
