"""Files of rules taken apart: YAML documents with the lines of what they say, parsed by pySigma."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaRuleLocation
from sigma.filters import SigmaFilter
from sigma.rule import SigmaRule
from sigma.rule.base import SigmaRuleBase, SigmaYAMLLoader

from agentwatch.rules.model import Problem, Refused, RuleError

# What pySigma raises, its own errors (ValueErrors) and what it trips over in odd documents.
FAILURES = (ValueError, TypeError, AttributeError, KeyError, RecursionError)


@dataclass(frozen=True)
class Document:
    """One YAML document: where it stands, its nodes (for line numbers), and what pySigma made of it."""

    path: str
    node: yaml.Node
    sigma: SigmaRuleBase

    @property
    def id(self) -> str:
        """The rule's id; a rule without one gets an id derived from its name or title."""
        return str(self.sigma.id or uuid.uuid5(uuid.NAMESPACE_URL, self.sigma.name or self.sigma.title))

    @property
    def line(self) -> int:
        """The first line of the document."""
        return int(self.node.start_mark.line) + 1

    def problem(self, error: Exception) -> Problem:
        """The error at the line of what its message quotes, or at the document's first line."""
        reason = str(error.args[0]) if error.args else type(error).__name__
        return Problem(self.path, _line_of(self.node, reason) or self.line, reason)

    def refused(self, reason: str) -> Refused:
        """This rule as one that cannot be evaluated."""
        return Refused(self.id, self.sigma.title, reason, self.path, self.line)


def parse(path: str, content: bytes) -> list[Document]:
    """The documents of a file. Raises `RuleError` with all that is wrong with any of them."""
    documents: list[Document] = []
    problems: list[Problem] = []
    loader = SigmaYAMLLoader(content)
    try:
        while loader.check_node():
            node = loader.get_node()
            plain = loader.construct_document(node) if node is not None else None
            if node is not None and plain is not None:
                document = Document(path, node, _sigma(path, plain))
                problems += [document.problem(error) for error in document.sigma.errors]
                documents.append(document)
    except (yaml.YAMLError, *FAILURES) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error.args[0] if error.args else error)
        line = min(mark.line, content.count(b"\n")) + 1 if mark else 1
        problems.append(Problem(path, line, str(reason)))
    if problems:
        raise RuleError(*problems)
    return documents


def _sigma(path: str, plain: Any) -> SigmaRuleBase:
    if not isinstance(plain, dict):
        raise ValueError("a rule is a YAML mapping")
    if "action" in plain:
        raise ValueError("'action' documents are no longer part of Sigma")
    source = SigmaRuleLocation(Path(path))
    parsed: SigmaRuleBase
    if "correlation" in plain:
        parsed = SigmaCorrelationRule.from_dict(plain, collect_errors=True, source=source)
    elif "filter" in plain:
        parsed = SigmaFilter.from_dict(plain, collect_errors=True, source=source)
    else:
        parsed = SigmaRule.from_dict(plain, collect_errors=True, source=source)
    return parsed


_QUOTED = re.compile(r"'\s?([^']+?)\s?'")


def _line_of(node: yaml.Node, reason: str) -> int | None:
    """The line of what the reason quotes, else of the top-level key that it speaks of."""
    scalars = list(_scalars(node))
    for word in _QUOTED.findall(reason):
        found = [scalar for scalar in scalars if scalar.value == word]
        found += [scalar for scalar in scalars if word in scalar.value]
        if found:
            return int(found[0].start_mark.line) + 1
    keys = {key.value: key for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    for word in reason.lower().split():
        key = keys.get("id" if word == "identifier" else word)
        if key is not None:
            return int(key.start_mark.line) + 1
    return None


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(key)
            yield from _scalars(value)
