"""Conditions as plain data: trees of tuples, which survive msgpack unchanged.

    ("and", e, ...)  ("or", e, ...)  ("not", e)  ("const", bool)
    ("sel", name, e)              a named selection of the rule, kept for explanations
    ("atom", field, op, value)    one comparison; `OPERATORS` lists what `op` and `value` are
    ("rule", id)                  in correlations: the rule has matched

A field is a Sigma field name, `NAME#3` for an element of a list field, `ANY_FIELD` for keywords,
which are looked for in every text field, or, in exceptions, `AGENT_FIELD` for the agent's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

# A condition tree. Typed as a plain tuple: mypy has no use for the recursion.
Expr = tuple[Any, ...]

ANY_FIELD = "*"
AGENT_FIELD = "@agent"
MAX_DEPTH = 100

# Operators of an atom and the shape of its value. A tuple of strings, numbers or networks stands
# for any of them. Strings compare without case unless the operator ends in "_cased".
OPERATORS: Mapping[str, str] = {
    "eq": "tuple of str",
    "contains": "tuple of str",
    "startswith": "tuple of str",
    "endswith": "tuple of str",
    "num": "tuple of numbers: equal to one",
    "cidr": "tuple of networks in CIDR notation",
    "wild": "literals (str) and wildcards (MANY, ONE) in order, over the whole value",
    "re": "(pattern, flags of i, m, s): RE2 syntax, searched, case as the flags say",
    "lt": "number",
    "lte": "number",
    "gt": "number",
    "gte": "number",
    "exists": "bool: the field is (not) there",
    "null": "None: the field is absent or has no value",
    "fieldref": "(other field, contains|startswith|endswith|eq)",
}
CASED = "_cased"
ANY_OF = frozenset({"eq", "contains", "startswith", "endswith", "num", "cidr"})
MANY = 0
ONE = 1


def check_condition(expr: Any, *, of_correlation: bool = False, depth: int = 0) -> None:
    """Raises ValueError for what is no condition of a rule, or of a correlation."""
    leaves = _OF_CORRELATION if of_correlation else _OF_RULE
    if depth > MAX_DEPTH:
        raise ValueError("a condition is nested too deeply")
    if not isinstance(expr, tuple) or len(expr) < 2:
        raise ValueError("not a condition")
    kind, *rest = expr
    if kind in ("and", "or") or (kind == "not" and len(rest) == 1):
        for part in rest:
            check_condition(part, of_correlation=of_correlation, depth=depth + 1)
    elif kind == "sel" and len(rest) == 2 and isinstance(rest[0], str):
        check_condition(rest[1], of_correlation=of_correlation, depth=depth + 1)
    elif kind not in leaves or not leaves[kind](expr):
        raise ValueError("not a condition")


def _is_atom(expr: Expr) -> bool:
    if len(expr) != 4 or not isinstance(expr[1], str) or not isinstance(expr[2], str):
        return False
    index = expr[1].partition("#")[2]
    plain = expr[2].removesuffix(CASED)
    if plain not in _SHAPES or (plain != expr[2] and plain not in _WITH_CASE) or not _is_index(index):
        return False
    return _SHAPES[plain](expr[3])


def _is_index(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and len(text) < 6)


def _all(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and bool(value) and all(isinstance(v, kind) for v in value)


def _is_part(part: str | int) -> bool:
    return part in (MANY, ONE) if isinstance(part, int) else bool(part)


def _is(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_WITH_CASE = ("eq", "contains", "startswith", "endswith", "wild")
_SHAPES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("eq", "contains", "startswith", "endswith", "cidr"), _all(str)),
    **dict.fromkeys(("lt", "lte", "gt", "gte"), _is((int, float))),
    "num": _all((int, float)),
    "wild": lambda value: (
        _all((str, int))(value) and all(v in (MANY, ONE) if isinstance(v, int) else v for v in value)
    ),
    "re": lambda value: _all(str)(value) and len(value) == 2 and set(value[1]) <= set("ims"),
    "exists": _is(bool),
    "null": _is(type(None)),
    "fieldref": lambda value: _all(str)(value) and len(value) == 2 and value[1] in _WITH_CASE[:4],
}
_OF_RULE: Mapping[str, Callable[[Expr], bool]] = {
    "atom": _is_atom,
    "const": lambda expr: len(expr) == 2 and isinstance(expr[1], bool),
}
_OF_CORRELATION: Mapping[str, Callable[[Expr], bool]] = {
    "rule": lambda expr: len(expr) == 2 and isinstance(expr[1], str)
}
