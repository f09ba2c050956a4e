"""Filters in the words of Sigma: `Image|endswith: /curl or /wget and not User: root`.

Terms are joined by `and`; a term is `Field|modifier: value`, `not` before it, several values joined
by `or`. A term without a field is looked for in every field. Values without a modifier may hold the
wildcards `*` and `?`; compared is without case.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from agentwatch.event import Event
from agentwatch.rules.expr import ANY_FIELD, MANY, ONE, Expr
from agentwatch.rules.match import Facts, Test, compile_condition

_TERM: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9]*(?:#\d{1,4})?)((?:\|[a-z]+)*)\s*:\s*(.*)", re.ASCII | re.DOTALL
)
TEXT_LIMIT: Final = 1000  # characters of a filter


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter as it was written, ready to be asked."""

    text: str
    _test: Test

    @classmethod
    def parse(cls, text: str, known: Collection[str]) -> Filter:
        """From what was typed; `known` are the fields there are. Raises ValueError with a sentence."""
        if len(text) > TEXT_LIMIT:
            raise ValueError(f"a filter has {TEXT_LIMIT} characters at most")
        terms = [_term(part.strip(), known) for part in re.split(r"\s+and\s+", text.strip())]
        return cls(text.strip(), compile_condition(("and", *terms), {}))

    def holds(self, fields: Mapping[str, Any]) -> bool:
        """Whether fields are so, or may be: of a value that was cut."""
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return self._test(Facts(Event("", 0, 0, "", values))) is not False


def _term(text: str, known: Collection[str]) -> Expr:
    if text.lower().startswith("not "):
        return ("not", _term(text[4:].lstrip(), known))
    found = _TERM.fullmatch(text)
    if not found:
        if not text:
            raise ValueError("a term is missing: Field|modifier: value")
        return ("atom", ANY_FIELD, "contains", (text,))
    field, modifiers, value = found.groups()
    _check_field(field, known)
    words = [_unquoted(word.strip()) for word in re.split(r"\s+or\s+", value)]
    return _atom(field, modifiers.split("|")[1:], words)


def _check_field(field: str, known: Collection[str]) -> None:
    base = field.partition("#")[0]
    if base in known:
        return
    near = difflib.get_close_matches(base, sorted(known), 3, 0.5)
    there = ", ".join(near or sorted(known)[:8])
    raise ValueError(f"there is no field {base} here; perhaps {there}")


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word


def _atom(field: str, modifiers: list[str], words: list[str]) -> Expr:
    cased = "_cased" if "cased" in modifiers else ""
    every = "all" in modifiers
    kinds = [one for one in modifiers if one not in ("cased", "all")]
    if len(kinds) > 1:
        raise ValueError(f"{field}: one modifier, not {' and '.join(kinds)}")
    make = _MAKERS.get(kinds[0] if kinds else "")
    if make is None:
        raise ValueError(
            f"there is no modifier {kinds[0]}; there are {', '.join(filter(None, _MAKERS))}, cased, all"
        )
    try:
        atoms = [("atom", field, *make(word, cased)) for word in words]
        for atom in atoms:
            compile_condition(atom, {})  # a regular expression may be none
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
    return ("and" if every else "or", *atoms)


def _text(op: str) -> Callable[[str, str], tuple[str, Any]]:
    return lambda word, cased: (op + cased, (word,))


def _plain(word: str, cased: str) -> tuple[str, Any]:
    if word in ("", "null"):
        return "null", None
    if not re.search(r"[*?]", word):
        return f"eq{cased}", (word,)
    marks = {"*": MANY, "?": ONE}
    return f"wild{cased}", tuple(marks.get(part, part) for part in re.split(r"([*?])", word) if part)


def _number(op: str) -> Callable[[str, str], tuple[str, Any]]:
    def make(word: str, cased: str) -> tuple[str, Any]:
        try:
            return op, float(word)
        except ValueError:
            raise ValueError(f"{op} takes a number, not {word!r}") from None

    return make


def _exists(word: str, cased: str) -> tuple[str, Any]:
    if word.lower() not in ("true", "false"):
        raise ValueError("exists takes true or false")
    return "exists", word.lower() == "true"


_MAKERS: Final[dict[str, Callable[[str, str], tuple[str, Any]]]] = {
    "": _plain,
    **{op: _text(op) for op in ("contains", "startswith", "endswith")},
    "re": lambda word, cased: ("re", (word, "" if cased else "i")),
    "cidr": lambda word, cased: ("cidr", (str(ip_network(word, strict=False)),)),
    **{op: _number(op) for op in ("lt", "lte", "gt", "gte")},
    "exists": _exists,
}
