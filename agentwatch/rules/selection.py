"""Which rules speak of an agent: its policy names rules by id, name, tag or tactic."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from agentwatch.rules.model import Rule, RuleSet

_TACTICS = "attack."  # Sigma's namespace of the tags that name tactics and techniques


def left_out(only: Collection[str], without: Collection[str], rules: RuleSet) -> frozenset[str]:
    """Ids of the rules that say nothing of an agent: all but `only`, where it is given, and `without`."""
    asked, refused = {_plain(word) for word in only}, {_plain(word) for word in without}
    return frozenset(
        rule.id
        for rule in rules.rules
        if not refused.isdisjoint(names := _names(rule)) or (asked and asked.isdisjoint(names))
    )


def strangers(words: Iterable[str], rules: RuleSet) -> list[str]:
    """The words that no rule answers to."""
    known = {name for rule in rules.rules for name in _names(rule)}
    return [word for word in words if _plain(word) not in known]


def _names(rule: Rule) -> set[str]:
    """All that a rule answers to. Tactics are written with dashes or underscores."""
    tags = {_plain(tag) for tag in rule.tags}
    tactics = {tag.removeprefix(_TACTICS) for tag in tags}
    return {_plain(rule.id), _plain(rule.name)} - {""} | tags | tactics


def _plain(word: str) -> str:
    return word.strip().lower().replace("_", "-")
