"""What a pattern matches has one of the words in it that are told to be certain."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.rules.literals import certain_literals
from agentwatch.rules.match import regex


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("needle", {"needle"}),
        (r"\bNeedle\s", {"needle"}),
        (r"a\.b", {"a.b"}),
        ("nee(?:dle|d)", {"needle", "need"}),
        ("(?:needle)?hay", {"needlehay", "hay"}),
        ("needle|hay", {"needle", "hay"}),
        ("(?i)needle", {"needle"}),
        ("needle?", {"needle", "needl"}),
        ("needles*", {"needle"}),
        ("(?:needle){0,2}", set()),
        ("(?:needle){2}hay", {"needle"}),
        ("[needle]+", set()),
        ("[]needle]x", {"x"}),
        ("[[:alpha:]x]y", {"y"}),
        ("nee[d]le", {"nee"}),
        (r"\x41bcd|\101bcd", {"bcd"}),
        (r"\Qa|b\E", set()),
        ("(a{|b)c|de", {"a{c", "bc", "de"}),
        (r"\S+\s", set()),
        ("(?:a|)needle", {"aneedle", "needle"}),
        ("a|", set()),
        ("^a$|/b", {"\0a\0", "/b"}),
        ("(?m)^a$", {"a"}),
        ("^^", set()),
        ("", set()),
        ("(" * 5000 + "needle" + ")" * 5000, set()),
    ],
)
def test_the_words_that_are_certain(pattern: str, words: set[str]) -> None:
    assert set(certain_literals(pattern)) == words


@given(st.text(r"ab|()[]{}*?+\.^$:i0,<>QxA", max_size=30), st.text("abAix0{}\n", max_size=8))
def test_what_matches_has_a_word_in_it(pattern: str, text: str) -> None:
    words = certain_literals(pattern)
    try:
        matches = regex(pattern)
    except ValueError:
        return
    if words and matches(text.encode()):
        assert any(word in f"\0{text.lower()}\0" for word in words)


@given(
    st.from_regex(r"(?:[ab]|\(a\|b\)|\((?:\?:)?ab?\|c\)|[*+?^$]|\.|\{2\}|\[a\]){1,8}", fullmatch=True),
    st.data(),
)
def test_what_a_pattern_of_many_parts_matches_has_a_word_in_it(pattern: str, data: st.DataObject) -> None:
    try:
        regex(pattern)
        known = re.compile(pattern, re.ASCII)
    except (ValueError, re.error):
        return
    words = certain_literals(pattern)
    text = data.draw(st.one_of(st.from_regex(known), st.text("abc", max_size=8)))
    if words and regex(pattern)(text.encode()):
        assert any(word in f"\0{text.lower()}\0" for word in words)
