"""Rules as plain data: what the loader makes, the cache and the trace keep, the engine evaluates.

Conditions are trees of tuples; see `agentwatch.rules.expr`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, Union

import msgpack  # type: ignore[import-untyped]

from agentwatch.rules.expr import Expr, check_condition

IR_VERSION = 1
NANOSECONDS = 1_000_000_000

# The most matches, or values, that a correlation can be asked to count in a window.
MAX_ENTRIES = 1024

RESPONSES = ("alert", "block", "pause", "kill")
SCOPES = ("agent",)
COMPARISONS = ("lt", "lte", "gt", "gte", "eq", "neq")
CORRELATION_TYPES = (
    "event_count",
    "value_count",
    "value_sum",
    "value_avg",
    "temporal",
    "temporal_ordered",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a file of rules; `line` counts from 1."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class RuleError(ValueError):
    """One or more files of rules cannot be loaded. `problems` names each file, line and reason."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Correlation:
    """A Sigma correlation over the matches of other rules.

    `rules` are ids of the rules counted. `group_by` are fields (or aliases) whose values part
    the counting; `aliases` maps alias -> {rule id: field}. `timespan` is in nanoseconds.
    `op` and `count` are the threshold on the count, sum or average of `fields`; temporal types
    may have `expr` instead, a condition over ("rule", id) leaves. `generate` lets the rules
    counted give alerts of their own.
    """

    type: str
    rules: tuple[str, ...]
    group_by: tuple[str, ...]
    timespan: int
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    op: str = "gte"
    count: Union[int, float] = 1
    fields: tuple[str, ...] = ()
    expr: Expr | None = None
    generate: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A Sigma rule ready to be evaluated, with what its alert says.

    `conditions` maps each category of event that the rule applies to onto its condition.
    `partial` says, in words, what of the rule no event can answer. `unused` are selections that
    its condition does not name. `silent` rules only feed correlations. `file` and `line` say where
    the rule stands.
    """

    id: str
    title: str
    level: str
    kind: str = "rule"
    name: str = ""
    status: str = ""
    author: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    response: str = "alert"
    scope: str = "agent"
    category: str = ""
    conditions: Mapping[str, Expr] = field(default_factory=dict)
    correlation: Correlation | None = None
    partial: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    silent: bool = False
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """A valid rule that no event of agentwatch can answer, and why."""

    id: str
    title: str
    reason: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Exemption:
    """An operator's exception: what these rules say of events under `condition` is not told.

    It ends at `expires`, in nanoseconds since 1970 (UTC).
    """

    rules: tuple[str, ...]
    condition: Expr
    reason: str
    expires: int
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules in force, ordered by id, so that the order of files does not matter.

    `digest` is a SHA-256 over the contents of the files, whatever their names and order.
    """

    rules: tuple[Rule, ...]
    digest: str
    refused: tuple[Refused, ...] = ()
    exemptions: tuple[Exemption, ...] = ()

    @property
    def categories(self) -> frozenset[str]:
        """The categories of events that some rule looks at."""
        return frozenset(category for rule in self.rules for category in rule.conditions)

    def to_bytes(self) -> bytes:
        """The whole set as msgpack, for the cache and for the header of a trace."""
        packed: bytes = msgpack.packb(
            {
                "ir": IR_VERSION,
                "digest": self.digest,
                "rules": [_plain(rule) for rule in self.rules],
                "refused": [_plain(rule) for rule in self.refused],
                "exemptions": [_plain(exemption) for exemption in self.exemptions],
            }
        )
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> RuleSet:
        """Inverse of `to_bytes`. Raises ValueError for anything else, be it made by an enemy."""
        try:
            plain = msgpack.unpackb(data, use_list=False)
            if plain["ir"] != IR_VERSION:
                raise ValueError(f"rules of version {plain['ir']!r}, this program reads {IR_VERSION}")
            return cls(
                rules=tuple(_rule(rule) for rule in plain["rules"]),
                digest=str(plain["digest"]),
                refused=tuple(_typed(Refused, rule) for rule in plain["refused"]),
                exemptions=tuple(_exemption(exemption) for exemption in plain["exemptions"]),
            )
        except (msgpack.UnpackException, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a rule set: {error!r}") from error


def digest(contents: list[bytes]) -> str:
    """SHA-256 over files' contents, independent of their order and names."""
    total = hashlib.sha256()
    for one in sorted(hashlib.sha256(content).digest() for content in contents):
        total.update(one)
    return total.hexdigest()


def _plain(item: Rule | Refused | Correlation | Exemption) -> dict[str, Any]:
    plain = {f.name: getattr(item, f.name) for f in fields(item)}
    if isinstance(plain.get("correlation"), Correlation):
        plain["correlation"] = _plain(plain["correlation"])
    return plain


_Item = TypeVar("_Item", Rule, Refused, Correlation, Exemption)

# The beginning of a field's annotation -> what its value must be.
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "bool": bool,
    "int": int,
    "Union[int, float]": (int, float),
    "tuple": tuple,
    "Expr": tuple,
    "Mapping": dict,
    "Correlation": Correlation,
}


def _typed(kind: type[_Item], plain: Any) -> _Item:
    item = kind(**plain)
    for f in fields(item):
        value, annotation = getattr(item, f.name), str(f.type)
        expected = next(_TYPES[name] for name in _TYPES if annotation.startswith(name))
        if not isinstance(value, expected) and not (value is None and annotation.endswith("| None")):
            raise TypeError(f"{f.name} is {value!r}")
    return item


def _rule(plain: Any) -> Rule:
    correlation = plain["correlation"]
    if correlation is not None:
        correlation = _typed(Correlation, correlation)
        if correlation.type not in CORRELATION_TYPES or correlation.op not in COMPARISONS:
            raise ValueError(f"no correlation: {correlation!r}")
        if correlation.expr is not None:
            check_condition(correlation.expr, of_correlation=True)
    rule = _typed(Rule, {**plain, "correlation": correlation})
    for condition in rule.conditions.values():
        check_condition(condition)
    return rule


def _exemption(plain: Any) -> Exemption:
    exemption = _typed(Exemption, plain)
    check_condition(exemption.condition)
    return exemption
