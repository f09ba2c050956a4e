"""Why a condition holds: which selection, by which comparison, on which value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agentwatch.event import Event
from agentwatch.rules.match import Facts, compile_condition
from agentwatch.rules.model import Expr

EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Detail:
    """One comparison that holds, or may hold (`undecided`). `found` is cut to `EXCERPT` characters."""

    selection: str
    field: str
    op: str
    wanted: str
    found: str
    undecided: bool

    def __str__(self) -> str:
        verb = "may match" if self.undecided else "matched"
        return f"{self.selection}: {self.field} {self.op} {self.wanted!r} {verb} {self.found!r}"


def explain(condition: Expr, event: Event) -> tuple[Detail, ...]:
    """The comparisons that make the condition hold for the event, in the rule's order."""
    return tuple(dict.fromkeys(_walk(condition, Facts(event), {}, "")))


def _walk(expr: Expr, facts: Facts, atoms: dict[Expr, int], selection: str) -> Iterator[Detail]:
    kind = expr[0]
    if kind in ("and", "or"):
        for operand in expr[1:]:
            yield from _walk(operand, facts, atoms, selection)
    elif kind in ("sel", "atom"):
        verdict = compile_condition(expr, atoms)(facts)
        if verdict is not False:
            if kind == "sel":
                yield from _walk(expr[2], facts, atoms, expr[1])
            else:
                _, name, op, value = expr
                found = ", ".join(facts.texts(name))[:EXCERPT]
                yield Detail(selection, name, op, _wanted(op, value), found, verdict is None)


def _wanted(op: str, value: object) -> str:
    if op.startswith("wild") and isinstance(value, tuple):
        return "".join(part if isinstance(part, str) else "*?"[part] for part in value)
    if op == "re" and isinstance(value, tuple):
        return f"/{value[0]}/{value[1]}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)
