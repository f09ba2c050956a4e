"""Requests: what is one, what is not, and that nothing else comes out of any bytes."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.control.protocol import LINE_LIMIT, VERBS, ProtocolError, encode, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def request(**plain: object) -> bytes:
    return json.dumps({"id": 1, **plain}).encode()


def test_a_request_has_the_arguments_of_its_verb() -> None:
    found = parse(request(verb="pause", agent="job", reason="why"))
    assert (found.id, found.verb.name, found.verb.acts) == (1, "pause", True)
    assert found.arguments == {"agent": "job", "reason": "why"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "one JSON object"),
        (b"{", "one JSON object"),
        (b"[]", "a JSON object"),
        (b"[" * 50_000, "one JSON object"),
        (b" " * (LINE_LIMIT + 1), "bytes at most"),
        (b'{"verb": "ps"}', "id takes"),
        (b'{"id": true, "verb": "ps"}', "id takes"),
        (b'{"id": -1, "verb": "ps"}', "id takes"),
        (request(), "verb is none of"),
        (request(verb=["ps"]), "verb is none of"),
        (request(verb="pause"), "pause needs agent"),
        (request(verb="pause", agent=7), "agent takes a text"),
        (request(verb="pause", agent="x" * 5000), "agent takes a text"),
        (request(verb="ps", shell="x"), "ps takes no shell"),
        (request(verb="alerts", limit=-1), "limit takes a number"),
        (request(verb="alerts", follow=1), "follow takes a flag"),
        (request(verb="mark", agent="a", markers={"run": 7}), "markers takes"),
    ],
)
def test_what_is_no_request_is_named(line: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason) as error:
        parse(line)
    assert error.value.code == "request"


@given(st.binary() | JSON.map(lambda plain: json.dumps(plain).encode()))
def test_any_bytes_are_a_request_or_an_error(line: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse(line)


@given(st.sampled_from(sorted(VERBS)), st.dictionaries(st.sampled_from(["agent", "limit", "markers"]), JSON))
def test_any_arguments_are_taken_or_refused(verb: str, arguments: dict[str, object]) -> None:
    try:
        found = parse(request(verb=verb, **arguments))
    except ProtocolError:
        return
    assert dict(found.arguments) == arguments


@given(st.text())
def test_a_message_is_one_line_of_ascii(text: str) -> None:
    line = encode({"id": 1, "item": text})
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert all(byte < 0x7F and byte >= 0x20 for byte in line[:-1])
