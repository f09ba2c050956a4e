"""The catalogue of the shipped rules in the documentation, made from the rules.

python -m agentwatch.rules.catalogue > docs/rules.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from agentwatch.resources import RULES
from agentwatch.rules.expr import ANY_FIELD, Expr
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import Rule, RuleSet

_HEAD = """# The rules that ship

Made from `rules/` by `python -m agentwatch.rules.catalogue`; do not edit.

The response is what is done in `enforce` mode; `alert` does nothing but tell. How to write rules of
your own, and how to except something from one of these, is in [writing-rules.md](writing-rules.md);
the fields are in [rule-fields.md](rule-fields.md). Lists of names (`rules/lists/`) are made longer
by a file of the same name in a rule folder of yours.
"""
_TECHNIQUE = re.compile(r"attack\.(t\d{4})(?:\.(\d{3}))?")
_RANK = ("informational", "low", "medium", "high", "critical")


def markdown(ruleset: RuleSet) -> str:
    """The catalogue as a Markdown document: by tactic, the gravest first; without parts of correlations."""
    rules = {rule.id: rule for rule in ruleset.rules}
    told = sorted((rule for rule in ruleset.rules if not rule.silent), key=_order)
    sections = [_HEAD, _summary(told)]
    for tactic, group in groupby(told, key=_tactic):
        sections.append(f"## {tactic.replace('_', ' ').capitalize()}\n")
        sections += [_entry(rule, rules) for rule in group]
    return "\n".join(sections)


def _order(rule: Rule) -> tuple[str, int, str]:
    return _tactic(rule), -_RANK.index(rule.level), rule.title


def _tactic(rule: Rule) -> str:
    return Path(rule.file).parent.name


def _summary(rules: list[Rule]) -> str:
    lines = ["| | rules | kill | pause | alert |\n|---|---|---|---|---|\n"]
    for tactic, group in groupby(rules, key=_tactic):
        responses = [rule.response for rule in group]
        counts = " | ".join(str(responses.count(word)) for word in ("kill", "pause", "alert"))
        name = tactic.replace("_", " ")
        lines.append(f"| [{name}](#{name.replace(' ', '-')}) | {len(responses)} | {counts} |\n")
    return "".join(lines)


def _entry(rule: Rule, rules: Mapping[str, Rule]) -> str:
    techniques = ", ".join(_links(rule))
    looks_at = "; ".join(
        f"{category} ({', '.join(f'`{name}`' for name in names)})"
        for category, names in _fields(rule, rules).items()
    )
    return (
        f"### {rule.title}\n\n"
        f"{' '.join(rule.description.split())}\n\n"
        f"- {rule.level}, {rule.response}; {techniques}\n"
        f"- looks at {looks_at}\n"
        f"- false positives: {'; '.join(rule.falsepositives)}\n"
        f"- `{_tactic(rule)}/{Path(rule.file).name}`, `{rule.id}`\n"
    )


def _links(rule: Rule) -> Iterator[str]:
    for tag in rule.tags:
        found = _TECHNIQUE.fullmatch(tag)
        if found:
            path = "/".join(part.upper() for part in found.groups() if part)
            yield f"[{path.replace('/', '.')}](https://attack.mitre.org/techniques/{path}/)"


def _fields(rule: Rule, rules: Mapping[str, Rule]) -> dict[str, list[str]]:
    """Category -> names of the fields that the rule, or a rule that it counts, reads."""
    found: dict[str, set[str]] = {}
    for category, condition in rule.conditions.items():
        found.setdefault(category, set()).update(_named(condition))
    for counted in rule.correlation.rules if rule.correlation else ():
        for category, names in _fields(rules[counted], rules).items():
            found.setdefault(category, set()).update(names)
    return {category: sorted(names) for category, names in sorted(found.items())}


def _named(expr: Expr) -> Iterator[str]:
    if expr[0] == "atom":
        yield "keywords" if expr[1] == ANY_FIELD else expr[1]
    for part in expr[1:]:
        if isinstance(part, tuple) and expr[0] != "atom":
            yield from _named(part)


if __name__ == "__main__":
    sys.stdout.write(markdown(load_rules([RULES])))
