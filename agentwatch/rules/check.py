"""What in sound rules and exceptions is probably not meant: what cannot hold, decide, or apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from agentwatch.rules.expr import AGENT_FIELD, CASED, Expr
from agentwatch.rules.model import Exemption, Rule, RuleSet
from agentwatch.schema.fields import FIELDS


def warnings(ruleset: RuleSet) -> list[tuple[Rule, str]]:
    """(rule, what is odd about it) for every rule, in the order of the set."""
    found = [(rule, text) for rule in ruleset.rules for text in dict.fromkeys(_of_rule(rule))]
    return found + list(_duplicates(ruleset.rules))


def exemption_warnings(exemptions: Iterable[Exemption], now: int) -> Iterator[tuple[Exemption, str]]:
    """(exception, what is odd about it) at the time `now`, in nanoseconds since 1970."""
    told = {field.name for _, fields in FIELDS.values() for field in fields} | {AGENT_FIELD}
    for exemption in exemptions:
        if exemption.expires <= now:
            yield exemption, "the exception has expired"
        for name in sorted(set(_fields(exemption.condition)) - told):
            yield exemption, f"no source tells {name} yet, so the exception covers nothing"


def _fields(expr: Expr) -> Iterator[str]:
    if expr[0] == "atom":
        yield expr[1]
    else:
        for part in expr[1:]:
            if isinstance(part, tuple):
                yield from _fields(part)


def _of_rule(rule: Rule) -> Iterator[str]:
    for name in rule.unused:
        yield f"selection {name} is not used by the condition"
    for condition in rule.conditions.values():
        yield from _walk(condition)


def _duplicates(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str]]:
    first: dict[str, Rule] = {}
    for rule in rules:
        if not rule.conditions:
            continue
        other = first.setdefault(repr(sorted(rule.conditions.items())), rule)
        if other is not rule:
            yield rule, f"its condition is the same as that of {other.title!r} ({other.file}:{other.line})"


def _walk(expr: Expr) -> Iterator[str]:
    kind = expr[0]
    if kind == "atom":
        yield from _shadowed_words(expr)
    elif kind in ("and", "or"):
        yield from _among(kind, expr[1:])
    if kind != "atom":
        for part in expr[1:]:
            if isinstance(part, tuple):
                yield from _walk(part)


# The shorter words that match whatever a word matches. Lists are long: they are looked up.
_COVERING: dict[str, Callable[[str], Iterator[str]]] = {
    "contains": lambda word: (
        word[begin:end] for begin in range(len(word)) for end in range(begin + 1, len(word) + 1)
    ),
    "startswith": lambda word: (word[:end] for end in range(1, len(word))),
    "endswith": lambda word: (word[begin:] for begin in range(1, len(word))),
}


def _shadowed_words(atom: Expr) -> Iterator[str]:
    _, field, op, words = atom
    covering = _COVERING.get(op.removesuffix(CASED))
    if covering is None:
        return
    folded = [word if op.endswith(CASED) else word.lower() for word in words]
    known = frozenset(folded)
    for place, word in enumerate(folded):
        for other in covering(word):
            if other != word and other in known:
                yield f"{field} {op} {words[place]!r} is unreachable: {other!r} is matched before"
                break


def _among(kind: str, operands: Sequence[Expr]) -> Iterator[str]:
    """What operands of one `and` or `or` make of each other."""
    plain = [_bare(operand) for operand in operands]
    for place, operand in enumerate(plain):
        if operand in plain[:place]:
            yield f"{_shown(operand)} stands twice in the same {kind}"
        if ("not", operand) in plain:
            yield f"{_shown(operand)} and its negation: always {'false' if kind == 'and' else 'true'}"
        if kind == "and":
            yield from _contradictions(operand, plain[:place])
        else:
            yield from _shadowed(operand, plain)


# Of a list one element may be the one, and another the other.
_LISTS = frozenset(field.name for _, fields in FIELDS.values() for field in fields if field.type == "list")


def _contradictions(atom: Expr, before: Sequence[Expr]) -> Iterator[str]:
    if atom[0] != "atom" or atom[2] != "eq" or atom[1] in _LISTS:
        return
    words = {word.lower() for word in atom[3]}
    for other in before:
        if other[:3] == atom[:3] and not words & {word.lower() for word in other[3]}:
            yield f"can never hold: {_shown(other)} and {_shown(atom)}"


def _shadowed(atom: Expr, operands: Sequence[Expr]) -> Iterator[str]:
    """An equality, prefix or suffix beside a `contains` that holds whenever it does."""
    if atom[0] != "atom" or atom[2] not in ("eq", "startswith", "endswith"):
        return
    for other in operands:
        if other[0] == "atom" and other[1:3] == (atom[1], "contains"):
            wanted = [word.lower() for word in other[3]]
            if all(any(word in own.lower() for word in wanted) for own in atom[3]):
                yield f"{_shown(atom)} is unreachable: {_shown(other)} holds whenever it does"


def _bare(expr: Expr) -> Expr:
    if expr[0] == "sel":
        return _bare(expr[2])
    return ("not", _bare(expr[1])) if expr[0] == "not" else expr


def _shown(expr: Expr) -> str:
    if expr[0] != "atom":
        return f"a condition ({expr[0]})"
    _, field, op, value = expr
    return f"{field} {op} {value if isinstance(value, str) else ', '.join(map(repr, value or ()))}"
