"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentwatch.cli.exits import Exit, Failure
from agentwatch.resources import RULES
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleError, RuleSet


def rule_set(paths: Sequence[Path], exceptions: Sequence[Path] = ()) -> RuleSet:
    """The rules of these files and folders, the shipped ones where none is given, with exceptions."""
    try:
        return load_rules(list(paths) or [RULES], exceptions=exceptions)
    except RuleError as error:
        raise Failure(f"the rules cannot be used:\n{error}", Exit.FAILURE) from None


def reaches(level: str, threshold: str | None) -> bool:
    """Whether an alert's level is at or above a threshold; never without one."""
    return threshold is not None and LEVELS.index(level) >= LEVELS.index(threshold)
