"""How long a literal every match of a regular expression contains: what a filter can go by."""

from __future__ import annotations

from collections.abc import Iterator

_OPTIONAL = ("*", "?", "{0", "{,")


def certain_literal(pattern: str) -> int:
    """Length of a literal that stands in whatever the pattern matches; of one of several, the shortest.

    An estimate, for RE2 syntax: character classes are taken for nothing, however small.
    """
    return _shortest(_Tokens(pattern))


class _Tokens:
    """A pattern's tokens, and where we are."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def __iter__(self) -> Iterator[str]:
        while self._at < len(self._pattern):
            yield self._next()

    def optional(self) -> bool:
        """Whether what comes next says that the token before may be missing."""
        return self._pattern.startswith(_OPTIONAL, self._at)

    def _next(self) -> str:
        """One token: a character, an escape, a class, an opening with its flags, or a quantifier."""
        begin = self._at
        first = self._pattern[begin]
        self._at += 1
        if first == "\\":
            self._at += 1
        elif first == "[":
            self._skip("]", begin + 2)
        elif first == "{":
            self._skip("}", begin)
        elif self._pattern.startswith("(?", begin):
            while self._at < len(self._pattern) and self._pattern[self._at] not in ":)>":
                self._at += 1
            self._at += 1
        return self._pattern[begin : self._at]

    def _skip(self, end: str, begin: int) -> None:
        self._at = begin
        while self._at < len(self._pattern) and self._pattern[self._at] != end:
            self._at += 2 if self._pattern[self._at] == "\\" else 1
        self._at += 1


def _shortest(tokens: _Tokens) -> int:
    """Of the alternatives up to the end or the group's end."""
    shortest: int | None = None
    longest = run = 0
    for token in tokens:
        if token == ")":
            break
        if token == "|":
            shortest = longest if shortest is None else min(shortest, longest)
            longest = run = 0
        elif token[0] == "(" and not token.endswith(")"):
            inside = _shortest(tokens)
            longest, run = max(longest, 0 if tokens.optional() else run + inside), 0
        elif _is_literal(token) and not tokens.optional():
            run += 1
            longest = max(longest, run)
        else:
            run = 0
    return longest if shortest is None else min(shortest, longest)


def _is_literal(token: str) -> bool:
    if len(token) == 2 and token[0] == "\\":
        return not token[1].isalnum()
    return len(token) == 1 and token not in ".^$*+?"
