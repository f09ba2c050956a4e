"""pySigma's rules lowered to plain data.

Only the child process of the loader imports this module: pySigma costs some 90 ms and 20 MiB
that the daemon does not carry. `python -m agentwatch.rules.lower` reads the files as msgpack on
standard input and writes a `RuleSet`, or the problems found, on standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
from sigma import types
from sigma.conditions import (
    ConditionAND,
    ConditionIdentifier,
    ConditionNOT,
    ConditionSelector,
)
from sigma.correlations import (
    CorrelationConditionAND,
    CorrelationConditionNOT,
    SigmaCorrelationRule,
    SigmaExtendedCorrelationCondition,
    SigmaRuleReference,
)
from sigma.filters import SigmaFilter
from sigma.rule import SigmaDetection, SigmaDetectionItem, SigmaDetections, SigmaRule
from sigma.rule.base import SigmaRuleBase

from agentwatch.rules import exceptions, logsource
from agentwatch.rules.documents import FAILURES, Document, parse
from agentwatch.rules.expr import ANY_FIELD, Expr, check_condition
from agentwatch.rules.logic import join, negate, string_atom
from agentwatch.rules.logsource import FALSE, TRUE, Unanswerable
from agentwatch.rules.model import (
    CORRELATION_TYPES,
    MAX_ENTRIES,
    NANOSECONDS,
    RESPONSES,
    SCOPES,
    Correlation,
    Exemption,
    Problem,
    Refused,
    Rule,
    RuleError,
    RuleSet,
    digest,
)

ATTRIBUTE = "agentwatch"

# How many values lists may make of one. An operator's list of domains has a hundred thousand. The
# pySigma of Python 3.10 has no such bound.
types.SigmaString.max_placeholder_expansions = 1 << 18  # type: ignore[attr-defined, unused-ignore]

Words = Mapping[str, Sequence[str]]
MakeAtom = Callable[[str, str, str, Any], Expr]


def lower(
    files: Mapping[str, bytes], lists: Mapping[str, bytes], exempt: Mapping[str, bytes] | None = None
) -> tuple[RuleSet, list[Problem]]:
    """Rules of `files` (path -> YAML), with the words of `lists` (name -> one a line).

    `exempt` are files of exceptions. The set holds what is sound; the problems name the rest.
    """
    problems: list[Problem] = []
    documents: list[Document] = []
    for path, content in sorted(files.items()):
        try:
            documents += parse(path, content)
        except RuleError as error:
            problems += error.problems
    filters = [document.sigma for document in documents if isinstance(document.sigma, SigmaFilter)]
    words = {name: _words(content) for name, content in lists.items()}
    names = _names(documents, problems)
    rules: list[Rule] = []
    refused: list[Refused] = []
    for document in documents:
        try:
            if isinstance(document.sigma, SigmaCorrelationRule):
                rules.append(_correlation(document, document.sigma, names))
            elif isinstance(document.sigma, SigmaRule):
                rules.append(_rule(document, document.sigma, filters, words))
        except Unanswerable as reason:
            refused.append(document.refused(str(reason)))
        except FAILURES as error:
            problems.append(document.problem(error))
    problems += _rings(rules)
    exemptions: list[Exemption] = []
    for path, content in sorted((exempt or {}).items()):
        try:
            exemptions += exceptions.parse(path, content, names)
        except RuleError as error:
            problems += error.problems
    rules = _silence(_without_dangling(rules, refused))
    found = RuleSet(
        rules=tuple(sorted(rules, key=lambda rule: rule.id)),
        digest=digest([*files.values(), *lists.values(), *(exempt or {}).values()]),
        refused=tuple(sorted(refused, key=lambda rule: rule.id)),
        exemptions=tuple(exemptions),
    )
    return found, problems


def _words(content: bytes) -> tuple[str, ...]:
    lines = (line.strip() for line in content.decode("utf-8", "replace").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


# Rules


def _names(documents: Sequence[Document], problems: list[Problem]) -> dict[str, str]:
    """Every name and id that a correlation may refer to -> the rule's id."""
    names: dict[str, str] = {}
    for document in documents:
        if isinstance(document.sigma, SigmaFilter):
            continue
        for name in dict.fromkeys((document.id, document.sigma.name or document.id)):
            if name in names:
                problems.append(document.problem(ValueError(f"'{name}' is already the id or name of a rule")))
            names[name] = document.id
    return names


def _rule(document: Document, rule: SigmaRule, filters: Sequence[SigmaFilter], words: Words) -> Rule:
    for sigma_filter in filters:
        rule = cast(SigmaRule, sigma_filter.apply_on_rule(rule))
    source = rule.logsource
    audit, bare = source.service == logsource.AUDITD, source.category is None and source.service is None
    make = logsource.audit_atom if audit else logsource.command_atom if bare else logsource.atom
    conditions: dict[str, Expr] = {}
    notes: dict[str, None] = {}
    refusals: dict[str, None] = {}
    used: set[str] = set()
    for category in logsource.targets(source.category, source.product, source.service):
        lowering = Lowering(category, make, words)
        condition = lowering.rule(rule.detection)
        used |= lowering.used
        check_condition(condition)
        if condition == FALSE:
            refusals |= lowering.notes
        else:
            conditions[category] = condition
            notes |= lowering.notes
    if not conditions:
        raise Unanswerable("; ".join(refusals) or "its condition can never hold")
    if bare:
        notes["no category: command lines are searched, log files are not"] = None
    if audit and "file_event" in conditions:
        notes["auditd PATH: files created or written are seen, files only read are not"] = None
    return Rule(
        **_common(document, rule),
        category=next(iter(conditions)),
        conditions=conditions,
        partial=tuple(notes),
        unused=tuple(name for name in rule.detection.detections if name not in used),
    )


def _common(document: Document, rule: SigmaRuleBase) -> dict[str, Any]:
    response, scope = _response(rule.custom_attributes.get(ATTRIBUTE))
    return {
        "id": document.id,
        "title": rule.title,
        "level": rule.level.name.lower() if rule.level else "medium",
        "name": rule.name or "",
        "status": rule.status.name.lower() if rule.status else "",
        "author": rule.author or "",
        "description": (rule.description or "").strip(),
        "tags": tuple(str(tag) for tag in rule.tags),
        "references": tuple(map(str, rule.references or ())),
        "falsepositives": tuple(map(str, rule.falsepositives or ())),
        "response": response,
        "scope": scope,
        "file": document.path,
        "line": document.line,
    }


def _response(attribute: Any) -> tuple[str, str]:
    if attribute is None:
        return "alert", "agent"
    if not isinstance(attribute, dict) or not attribute.keys() <= {"response", "scope"}:
        raise ValueError(f"'{ATTRIBUTE}' takes response and scope")
    response, scope = attribute.get("response", "alert"), attribute.get("scope", "agent")
    if response not in RESPONSES:
        raise ValueError(f"response '{response}' is none of {', '.join(RESPONSES)}")
    if scope not in SCOPES:
        raise ValueError(f"scope '{scope}' is none of {', '.join(SCOPES)}")
    return response, scope


class Lowering:
    """Lowers one rule's detection for one category of events.

    What no event can answer becomes a constant and leaves its reason in `notes`.
    """

    def __init__(self, category: str, make: MakeAtom, words: Words) -> None:
        self.category = category
        self.make = make
        self.words = words
        self.notes: dict[str, None] = {}
        self.used: set[str] = set()

    def rule(self, detections: SigmaDetections) -> Expr:
        """The whole condition; a list of conditions holds when one of them does."""
        self.detections = detections
        parsed = [condition.parse(postprocess=False) for condition in detections.parsed_condition]
        return join("or", [self.condition(item) for item in parsed])

    def condition(self, item: Any) -> Expr:
        """A node of the condition's parse tree."""
        if isinstance(item, ConditionIdentifier):
            if item.identifier not in self.detections.detections:
                raise ValueError(f"the condition names '{item.identifier}', which is not defined")
            return self.selection(item.identifier)
        if isinstance(item, ConditionSelector):
            chosen = item.resolve_referenced_detections(self.detections)
            if not chosen:
                raise ValueError(f"'{' of '.join(item.args)}' in the condition names no selection")
            operator = "and" if item.cond_class is ConditionAND else "or"
            return join(operator, [self.selection(one.identifier) for one in chosen])
        operands = [self.condition(argument) for argument in item.args]
        return _combine(item, operands)

    def selection(self, name: str) -> Expr:
        """A named selection, its name kept for explanations."""
        self.used.add(name)
        expr = self.detection(self.detections.detections[name])
        return expr if expr[0] == "const" else ("sel", name, expr)

    def detection(self, detection: SigmaDetection) -> Expr:
        """A map (all of its items) or a list (one of them)."""
        operator = "and" if detection.item_linking is ConditionAND else "or"
        return join(
            operator,
            [
                self.detection(item) if isinstance(item, SigmaDetection) else self.item(item)
                for item in detection.detection_items
            ],
        )

    def item(self, item: SigmaDetectionItem) -> Expr:
        """One line of a selection: a field, its modifiers already applied, and its values."""
        field = item.field or ANY_FIELD
        values = item.value or [types.SigmaNull()]
        operator = "and" if item.value_linking is ConditionAND else "or"
        expr = join(operator, [self.value(field, value) for value in values])
        return negate(expr) if item.negated else expr

    def value(self, field: str, value: types.SigmaType) -> Expr:
        """One field against one value; placeholders are filled in from the lists."""
        if isinstance(value, types.SigmaExpansion):
            return join("or", [self.value(field, one) for one in value.values])
        if isinstance(value, (types.SigmaString, types.SigmaRegularExpression)):
            filled = value.replace_placeholders(self._fill)
            return join("or", [self._atom(field, *_comparison(one, field)) for one in filled])
        return self._atom(field, *_comparison(value, field))

    def _atom(self, field: str, op: str, value: Any) -> Expr:
        try:
            expr = self.make(self.category, field, op, value)
            awaited = logsource.awaited(self.category, expr) if expr != FALSE else None
            if awaited:
                self.notes[awaited] = None
            return expr
        except Unanswerable as reason:
            self.notes[str(reason)] = None
            absent = op == "null" or (op == "exists" and not value)
            return TRUE if absent else FALSE

    def _fill(self, placeholder: types.Placeholder) -> Iterator[str]:
        if placeholder.name not in self.words:
            raise ValueError(f"no list for '%{placeholder.name}%': lists/{placeholder.name}.txt is missing")
        yield from self.words[placeholder.name]


def _comparison(value: types.SigmaType, field: str) -> tuple[str, Any]:
    """Operator and value of an atom; see `expr.OPERATORS`."""
    if isinstance(value, types.SigmaString):
        return string_atom(value, keyword=field == ANY_FIELD)
    if field == ANY_FIELD and isinstance(value, (types.SigmaNumber, types.SigmaBool)):
        return "contains", (str(value),)
    if isinstance(value, types.SigmaTimestampPart):
        raise ValueError(f"'{value.timestamp_part.name.lower()}': events have no field that is a time")
    for kind, comparison in _COMPARISONS:
        if isinstance(value, kind):
            return comparison(value)
    raise ValueError(f"values of type {type(value).__name__} cannot be evaluated")


def _regular(value: types.SigmaRegularExpression) -> tuple[str, Any]:
    flags = "".join(sorted(value.sigma_to_re_flag[flag] for flag in value.flags))
    return "re", (str(value.regexp), flags)


def _reference(value: types.SigmaFieldReference) -> tuple[str, Any]:
    how = {(True, True): "contains", (True, False): "startswith", (False, True): "endswith"}
    return "fieldref", (value.field, how.get((value.starts_with, value.ends_with), "eq"))


_COMPARISONS: tuple[tuple[type[types.SigmaType], Callable[[Any], tuple[str, Any]]], ...] = (
    (types.SigmaRegularExpression, _regular),
    (types.SigmaNumber, lambda value: ("num", (value.number,))),
    (types.SigmaBool, lambda value: ("eq", (str(value.boolean).lower(),))),
    (types.SigmaNull, lambda value: ("null", None)),
    (types.SigmaExists, lambda value: ("exists", value.exists)),
    (types.SigmaCIDRExpression, lambda value: ("cidr", (str(value.network),))),
    (types.SigmaCompareExpression, lambda value: (value.op.name.lower(), value.number.number)),
    (types.SigmaFieldReference, _reference),
)


def _combine(item: Any, operands: Sequence[Expr]) -> Expr:
    if isinstance(item, (ConditionNOT, CorrelationConditionNOT)):
        return negate(operands[0])
    return join("and" if isinstance(item, (ConditionAND, CorrelationConditionAND)) else "or", operands)


# Correlations


def _correlation(document: Document, rule: SigmaCorrelationRule, names: Mapping[str, str]) -> Rule:
    kind = rule.type.name.lower()
    if kind not in CORRELATION_TYPES:
        raise ValueError(f"correlations of type '{kind}' cannot be evaluated")

    def resolve(reference: str) -> str:
        if reference not in names:
            raise ValueError(f"the correlation names '{reference}', which is no rule")
        return names[reference]

    condition = rule.condition
    references = [reference.reference for reference in rule.rules or ()]
    ordered = kind == "temporal_ordered"
    threshold: dict[str, Any] = {}
    if isinstance(condition, SigmaExtendedCorrelationCondition):
        references = references or condition.get_referenced_rules()
        threshold["expr"] = _extended(condition.parsed, resolve)
        if ordered:
            raise ValueError("a 'temporal_ordered' correlation names its rules in order, without a condition")
    else:
        if ordered and (condition.op.name, condition.count) != ("GTE", len(references)):
            raise ValueError("a 'temporal_ordered' correlation holds when all of its rules matched in order")
        if kind in ("event_count", "value_count") and condition.count > MAX_ENTRIES:
            raise ValueError(f"'{condition.count}': a window counts at most {MAX_ENTRIES}")
        fields = condition.fieldref or ()
        threshold["op"] = condition.op.name.lower()
        threshold["count"] = condition.count
        threshold["fields"] = (fields,) if isinstance(fields, str) else tuple(fields)
    return Rule(
        **_common(document, rule),
        kind="correlation",
        correlation=Correlation(
            type=kind,
            rules=tuple(resolve(reference) for reference in references),
            group_by=tuple(rule.group_by or ()),
            timespan=rule.timespan.seconds * NANOSECONDS,
            aliases={
                alias.alias: {resolve(ref.reference): field for ref, field in alias.mapping.items()}
                for alias in rule.aliases
            },
            generate=rule.generate,
            **threshold,
        ),
    )


def _extended(item: Any, resolve: Callable[[str], str]) -> Expr:
    if isinstance(item, SigmaRuleReference):
        return ("rule", resolve(item.reference))
    return _combine(item, [_extended(argument, resolve) for argument in item.args])


def _rings(rules: Sequence[Rule]) -> list[Problem]:
    """Correlations that, along a chain, count themselves."""
    counted = {rule.id: rule.correlation.rules for rule in rules if rule.correlation}
    problems = []
    for rule in rules:
        reached, ahead = set[str](), list(counted.get(rule.id, ()))
        while ahead:
            one = ahead.pop()
            if one not in reached:
                reached.add(one)
                ahead += counted.get(one, ())
        if rule.id in reached:
            problems.append(Problem(rule.file, rule.line, f"the correlation '{rule.title}' counts itself"))
    return problems


def _without_dangling(rules: list[Rule], refused: list[Refused]) -> list[Rule]:
    """Correlations over refused rules are refused too, and so on along chains."""
    while True:
        gone = {rule.id for rule in refused}
        dangling = [
            rule for rule in rules if rule.correlation and any(one in gone for one in rule.correlation.rules)
        ]
        if not dangling:
            return rules
        for rule in dangling:
            refused.append(
                Refused(rule.id, rule.title, "a rule that it counts is refused", rule.file, rule.line)
            )
        rules = [rule for rule in rules if rule not in dangling]


def _silence(rules: list[Rule]) -> list[Rule]:
    """Rules that a correlation counts give no alert of their own, unless it says `generate`."""
    correlations = [rule.correlation for rule in rules if rule.correlation]
    silent = {one for correlation in correlations if not correlation.generate for one in correlation.rules}
    return [replace(rule, silent=rule.id in silent) for rule in rules]


def main() -> None:
    """The child process: files in, rule set and problems out, both as msgpack."""
    request = msgpack.unpackb(sys.stdin.buffer.read(), unicode_errors="surrogatepass")
    found, problems = lower(request["files"], request["lists"], request["exceptions"])
    answer = {
        "rules": found.to_bytes(),
        "problems": [(problem.file, problem.line, problem.reason) for problem in problems],
    }
    sys.stdout.buffer.write(msgpack.packb(answer, unicode_errors="surrogatepass"))


if __name__ == "__main__":
    main()
