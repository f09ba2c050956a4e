"""Words of which one stands in whatever a regular expression matches: what an index can go by."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    \\x\{[^}]*\}? | \\x.{0,2} | \\[pP](?:\{[^}]*\}?|.) | \\[0-7]{1,3} | \\.  # an escape
    | \[\^?\]?(?:\\.|\[:\^?\w*:\]|[^\]\\])*\]?                               # a class
    | \{[0-9]+(?:,[0-9]*)?\}                                                 # a counted repetition
    | \((?:\?[^:)>]*[:)>]?)?                                                # a group's opening with flags
    | .
    """,
    re.DOTALL | re.VERBOSE,
)
_REPETITION: Final = re.compile(r"[*+?]|\{[0-9].*")
_MULTILINE: Final = re.compile(r"\(\?[a-zA-Z]*m")
_BOUNDARIES: Final = (r"\b", r"\B")
_ENDS: Final = {r"\A": "\0", r"\z": "\0"}
_GROUPS = 100  # a pattern with more of them is not looked into: they may be nested
_WORDS = 64  # that are told at most

_Words = tuple[str, ...]
_NOTHING: Final = ("",)


@lru_cache(maxsize=4096)
def certain_literals(pattern: str, flags: str = "") -> _Words:
    """Words in lower case; none where nothing is certain. An end of the text stands as NUL.

    For ASCII patterns in RE2 syntax, however they regard case. Character classes are taken for
    anything at all.
    """
    if pattern.count("(") > _GROUPS or r"\Q" in pattern:
        return ()
    many_lines = "m" in flags or _MULTILINE.search(pattern) is not None
    ends = _ENDS if many_lines else {**_ENDS, "^": "\0", "$": "\0"}
    _, words = _Reader(_TOKEN.findall(pattern), ends).alternatives()
    words = tuple(dict.fromkeys(re.sub("\0+", "\0", word) for word in words))
    return words if all(word.strip("\0") for word in words) else ()


class _Reader:
    """Goes through the tokens of a pattern. What it finds of a part of it is two things:

    the words that it can be, where it is one of some words and nothing else; and words of which
    one stands in it (none: nothing is certain).
    """

    def __init__(self, tokens: list[str], ends: dict[str, str]) -> None:
        self._tokens = tokens[::-1]
        self._ends = ends

    def alternatives(self) -> tuple[_Words | None, _Words]:
        """Up to the end of the pattern or group, which is consumed."""
        exact: _Words | None = ()
        certain: _Words | None = ()
        while True:
            words, within = self._branch()
            exact = _limited(exact + words) if exact is not None and words is not None else None
            certain = _limited(certain + within) if certain is not None and within else None
            if not self._tokens or self._tokens.pop() == ")":
                return exact, certain or ()

    def _branch(self) -> tuple[_Words | None, _Words]:
        """Up to a `|` or an end, which stays."""
        run: _Words = _NOTHING  # the words that the last of it can be
        best: _Words = ()
        is_all = True
        while self._tokens and self._tokens[-1] not in ("|", ")"):
            words, within = self._part()
            longer = _limited(tuple(one + other for one in run for other in words)) if words else None
            if longer is None:
                best, run, is_all = _better(_better(best, run), within), _NOTHING, False
            else:
                run = longer
        return (run if is_all else None), _better(best, run)

    def _part(self) -> tuple[_Words | None, _Words]:
        """A character, class or group with its repetition."""
        token = self._tokens.pop()
        words, within = self._one(token)
        while self._tokens and _REPETITION.fullmatch(self._tokens[-1]):
            repetition = self._tokens.pop()
            if repetition == "?" and words is not None:
                words, within = (*words, ""), ()
            else:
                optional = repetition in ("*", "?") or repetition.startswith(("{0,", "{0}"))
                words, within = None, () if optional else _better(within, words or ())
        return words, within

    def _one(self, token: str) -> tuple[_Words | None, _Words]:
        if token[0] == "(":
            return (_NOTHING, ()) if token[-1] == ")" else self.alternatives()
        if token in self._ends:
            return (self._ends[token],), ()
        if token in _BOUNDARIES:
            return _NOTHING, ()
        if token[0] == "\\" and len(token) == 2 and not token[1].isalnum():
            return (token[1],), ()
        if len(token) == 1 and token not in ".\\^$":
            return (token.lower(),), ()
        return None, ()


def _limited(words: _Words) -> _Words | None:
    return words if len(words) <= _WORDS else None


def _better(one: _Words, other: _Words) -> _Words:
    """Which of two sets of words tells more: that with the longer ones."""
    return other if other and (not one or _shortest(other) > _shortest(one)) else one


def _shortest(words: _Words) -> int:
    return min(len(word.strip("\0")) for word in words)
