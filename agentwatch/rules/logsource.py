"""Which events a Sigma logsource means.

Sigma's own categories keep their field names. Rules written for auditd's records are answered
from the events that carry the same facts; what no event carries is said by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentwatch.rules.expr import ANY_FIELD, Expr
from agentwatch.schema import fields as schema

PRODUCTS = ("linux", "agentwatch")

# Standard categories and fields that rules may name although no source tells of them yet.
AWAITED: Mapping[str, frozenset[str]] = {
    "file_event": frozenset({"CommandLine", "Image", "ParentImage", "ProcessId", "TargetFilename", "User"}),
}
_TOLD: Mapping[str, frozenset[str]] = {
    category: frozenset(field.name for field in fields) for category, (_, fields) in schema.FIELDS.items()
}
FIELDS: Mapping[str, frozenset[str]] = {
    category: _TOLD.get(category, frozenset()) | AWAITED.get(category, frozenset())
    for category in dict.fromkeys([*_TOLD, *AWAITED])
}


class Unanswerable(ValueError):
    """No event can answer this; the message says why, for the report on an import."""


def targets(category: str | None, product: str | None, service: str | None) -> tuple[str, ...]:
    """The categories of events that a logsource stands for. Raises `Unanswerable`."""
    if product not in (None, *PRODUCTS):
        raise Unanswerable(f"product {product}: agentwatch watches Linux")
    if service == AUDITD:
        return tuple(AUDIT_FIELDS)
    if service is not None:
        raise Unanswerable(f"service {service}: agentwatch reads no service's log")
    if category is None:
        return ("process_creation",)
    if category not in FIELDS:
        raise Unanswerable(f"category {category}: there are no such events")
    return (category,)


def atom(category: str, name: str, op: str, value: Any) -> Expr:
    """A comparison on a field of a Sigma category. Raises `Unanswerable` for an unknown field."""
    if name != ANY_FIELD and name.partition("#")[0] not in FIELDS[category]:
        raise Unanswerable(f"field {name}: events of category {category} have none")
    return ("atom", name, op, value)


def awaited(category: str, expr: Expr) -> str | None:
    """Why a comparison cannot be answered yet, or None if it can."""
    if category not in _TOLD:
        return f"category {category}: no source tells of such events yet"
    name = expr[1].partition("#")[0] if expr[0] == "atom" else ANY_FIELD
    if name != ANY_FIELD and name not in _TOLD[category]:
        return f"field {name}: no source tells it in events of category {category} yet"
    return None


def command_atom(category: str, name: str, op: str, value: Any) -> Expr:
    """For a logsource without category: keywords are looked for in command lines."""
    return atom(category, "CommandLine" if name == ANY_FIELD else name, op, value)


# Auditd. Each record type is answered from one category; a SYSCALL record stands for the
# execution of a program unless the rule names another system call.
AUDITD = "auditd"
AUDIT_FIELDS: Mapping[str, Mapping[str, str]] = {
    "process_creation": {ANY_FIELD: "CommandLine", "exe": "Image", "uid": "UserId", "euid": "UserId"},
    "file_event": {"exe": "Image", "name": "TargetFilename"},
}
# What names a kind of record: the field -> what it is called, and which category answers which value.
_KINDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "type": (
        "record type",
        {"execve": "process_creation", "syscall": "process_creation", "path": "file_event"},
    ),
    "SYSCALL": ("system call", {"execve": "process_creation", "execveat": "process_creation"}),
    "nametype": ("nametype", {"create": "file_event"}),
}
_ARGUMENT = re.compile(r"a(\d+)")
TRUE: Expr = ("const", True)
FALSE: Expr = ("const", False)


def audit_atom(category: str, name: str, op: str, value: Any) -> Expr:
    """A comparison on a field of an auditd record, as a comparison on an event of `category`.

    What another category answers is false here. Raises `Unanswerable` for what none answers.
    """
    if name in _KINDS:
        return _kind(*_KINDS[name], category, op, value)
    if name == "comm" and op == "eq":
        # The kernel names a process after its program file.
        return ("atom", "Image", "endswith", tuple(f"/{name}" for name in value))
    argument = _ARGUMENT.fullmatch(name)
    if argument and category == "process_creation":
        return atom(category, f"Argv#{argument.group(1)}", op, value)
    if name in AUDIT_FIELDS[category]:
        return atom(category, AUDIT_FIELDS[category][name], op, value)
    if argument or any(name in known for known in AUDIT_FIELDS.values()):
        return FALSE
    raise Unanswerable(f"auditd field {name}: no event tells it")


def _kind(what: str, known: Mapping[str, str], category: str, op: str, value: Any) -> Expr:
    if op != "eq":
        raise Unanswerable(f"auditd {what} compared by {op}: only equality can be answered")
    (named,) = value
    told = known.get(named.lower())
    if told is None:
        raise Unanswerable(f"auditd {what} {named}: no event tells it")
    return TRUE if told == category else FALSE
