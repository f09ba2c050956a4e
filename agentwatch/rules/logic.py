"""Building conditions: constants folded away, alternatives on one field made one atom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sigma import types

from agentwatch.rules.expr import ANY_OF, CASED, MANY, ONE, Expr


def string_atom(value: types.SigmaString, keyword: bool = False) -> tuple[str, Any]:
    """Operator and value of the comparison with a Sigma string; a keyword may stand anywhere."""
    cased = CASED if isinstance(value, types.SigmaCasedString) else ""
    parts: list[str | int] = [
        part if isinstance(part, str) else MANY if part is types.SpecialChars.WILDCARD_MULTI else ONE
        for part in value.s
    ]
    if keyword:  # a keyword stands anywhere in a field
        parts = [MANY, *parts, MANY]
    parts = [part for i, part in enumerate(parts) if part != MANY or i == 0 or parts[i - 1] != MANY]
    literals = [part for part in parts if isinstance(part, str)]
    shape = tuple(part if part in (MANY, ONE) else "text" for part in parts)
    plain = {
        (): "eq",
        ("text",): "eq",
        (MANY, "text", MANY): "contains",
        ("text", MANY): "startswith",
        (MANY, "text"): "endswith",
    }
    if shape in plain:
        return plain[shape] + cased, tuple(literals) or ("",)
    return "wild" + cased, tuple(parts)


def join(operator: str, operands: Sequence[Expr]) -> Expr:
    """`and`/`or` of the operands, constants folded away, alternatives on one field made one atom."""
    absorbing = ("const", operator == "or")
    if absorbing in operands:
        return absorbing
    rest = [operand for operand in operands if operand[0] != "const"]
    if operator == "or":
        rest = _alternatives(rest)
    if not rest:
        return ("const", operator == "and")
    return rest[0] if len(rest) == 1 else (operator, *rest)


def _alternatives(operands: Sequence[Expr]) -> list[Expr]:
    merged: dict[Expr, dict[Any, None] | None] = {}
    for operand in operands:
        if operand[0] == "atom" and operand[2].removesuffix(CASED) in ANY_OF:
            values = merged.setdefault(operand[:3], {})
            assert values is not None
            values.update(dict.fromkeys(operand[3]))
        else:
            merged[operand] = None
    return [key if values is None else (*key, tuple(values)) for key, values in merged.items()]


def negate(operand: Expr) -> Expr:
    """`not`, constants folded away."""
    return ("const", not operand[1]) if operand[0] == "const" else ("not", operand)
