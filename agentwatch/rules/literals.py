"""How long a literal every match of a regular expression contains: what a filter can go by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]?|\{[^}]*\}?|\((?:\?[^:)>]*[:)>]?)?|.", re.DOTALL)
"""An escape, a class, a counted repetition, a group's opening with its flags, or one character."""

_GROUPS = 200  # a pattern with more of them is not looked into: they may be nested


@lru_cache(maxsize=1024)
def certain_literal(pattern: str) -> int:
    """Length of a literal that stands in whatever the pattern matches; of one of several, the shortest.

    An estimate, for RE2 syntax: character classes are taken for nothing, however small.
    """
    if pattern.count("(") > _GROUPS:
        return 0
    return _shortest(iter(_TOKEN.findall(pattern)))


def _shortest(tokens: Iterator[str]) -> int:
    """Of the alternatives up to the end or the group's end."""
    shortest: int | None = None
    longest = before = run = 0  # `before`: the longest one without the last token
    for token in tokens:
        if token == ")":
            break
        if token == "|":
            shortest = longest if shortest is None else min(shortest, longest)
            longest = before = run = 0
        elif token in ("*", "?") or token.startswith(("{0", "{,")):
            longest, run = before, 0
        elif token[0] == "(" and token[-1] != ")":
            before, longest = longest, max(longest, run + _shortest(tokens))
            run = 0
        elif _is_literal(token):
            run += 1
            before, longest = longest, max(longest, run)
        else:
            before, run = longest, 0
    return longest if shortest is None else min(shortest, longest)


def _is_literal(token: str) -> bool:
    if len(token) == 2 and token[0] == "\\":
        return not token[1].isalnum()
    return len(token) == 1 and token not in ".^$+\\"
