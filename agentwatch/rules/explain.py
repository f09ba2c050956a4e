"""Why a condition holds: which selection, by which comparison, on which value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentwatch.event import Event
from agentwatch.rules.expr import ANY_OF, CASED, Expr
from agentwatch.rules.match import Facts, compile_condition
from agentwatch.rules.model import Rule

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


def explain_alert(rule: Rule, alert: Mapping[str, Any]) -> tuple[Detail, ...]:
    """What an alert of the rule rests on, from what the alert itself says of the event.

    An alert does not name the category of its event: of a rule over several, the first whose
    condition holds is taken.
    """
    for category, condition in rule.conditions.items():
        event = event_of_alert(category, alert)
        if compile_condition(condition, {})(Facts(event)) is not False:
            return explain(condition, event)
    return ()


def event_of_alert(category: str, alert: Mapping[str, Any]) -> Event:
    """The event behind an alert, as far as the alert tells it; its time is left out."""
    process: Mapping[str, Any] = alert.get("process") or {}
    parent: Mapping[str, Any] = next(iter(process.get("ancestors") or ()), {})
    flow: Mapping[str, Any] = alert.get("flow") or {}
    fields: dict[str, Any] = {
        **{name: tuple(v) if isinstance(v, list) else v for name, v in (alert.get("event") or {}).items()},
        "Image": process.get("exe"),
        "Argv": tuple(process.get("argv") or ()),
        "CommandLine": process.get("cmdline"),
        "CurrentDirectory": process.get("cwd"),
        "User": process.get("user"),
        "ProcessId": process.get("pid"),
        "ParentImage": parent.get("exe"),
        "ParentProcessId": parent.get("pid"),
        "ParentCommandLine": parent.get("cmdline"),
    }
    for side, end in (("Source", flow.get("local")), ("Destination", flow.get("remote"))):
        address, _, port = str(end or "").rpartition(":")
        if address:
            fields[f"{side}Ip"], fields[f"{side}Port"] = address.strip("[]"), int(port)
    if flow.get("initiated") is not None:
        fields["Initiated"] = str(flow["initiated"]).lower()
    cut = [word.removesuffix(_CUT) for word in alert["completeness"]["why"] if word.endswith(_CUT)]
    evidence = alert["evidence"]
    return Event(category, 0, evidence[-1] if evidence else 0, str(alert["agent"]), fields, frozenset(cut))


# How an alert says that a field's value is cut; see `agentwatch.sinks.alerts`.
_CUT = " cut short"


def _walk(expr: Expr, facts: Facts, atoms: dict[Expr, int], selection: str) -> Iterator[Detail]:
    kind = expr[0]
    if kind in ("and", "or"):
        for operand in expr[1:]:
            yield from _walk(operand, facts, atoms, selection)
    elif kind == "sel":
        if compile_condition(expr, atoms)(facts) is not False:
            yield from _walk(expr[2], facts, atoms, expr[1])
    elif kind == "atom":
        for single in _singles(expr):
            verdict = compile_condition(single, atoms)(facts)
            if verdict is not False:
                _, name, op, value = single
                found = _excerpt(", ".join(facts.texts(name)), value)
                yield Detail(selection, name, op, _wanted(op, value), found, verdict is None)


def _singles(atom: Expr) -> Iterator[Expr]:
    """An atom that is satisfied by any of several values, as an atom for each."""
    _, name, op, value = atom
    if op.removesuffix(CASED) not in ANY_OF:
        yield atom
        return
    for one in value:
        yield ("atom", name, op, (one,))


def _excerpt(text: str, value: object) -> str:
    """The beginning of a text, or, of a long one, what surrounds the word that was looked for."""
    word = value[0] if isinstance(value, tuple) and value and isinstance(value[0], str) else ""
    place = text.lower().find(word.lower())
    start = max(0, place - EXCERPT // 2) if place + len(word) > EXCERPT else 0
    return text[start : start + EXCERPT]


def _wanted(op: str, value: object) -> str:
    if op.startswith("wild") and isinstance(value, tuple):
        return "".join(part if isinstance(part, str) else "*?"[part] for part in value)
    if op == "re" and isinstance(value, tuple):
        return f"/{value[0]}/{value[1]}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)
