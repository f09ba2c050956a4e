from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.detect.talk import Talk


def digest(word: bytes) -> bytes:
    return hashlib.sha256(word).digest()


HELLO = b"\0\0\0\0\1"


@pytest.mark.parametrize("segment", [0, 1, 5])
@pytest.mark.parametrize("initiated", [True, False])
def test_the_control_channel(segment: int, initiated: bool) -> None:
    talk = Talk(initiated, segment=segment)
    first, second = (talk.says, talk.hears) if initiated else (talk.hears, talk.says)
    first(HELLO + digest(b"ssh"))
    second(HELLO + digest(b"nonce"))
    assert talk.findings == []
    first(digest(b"proof"))
    role = "client" if initiated else "server"
    assert [(found["Role"], found["Behaviour"]) for found in talk.seen("rathole")] == [(role, "tunnel_tool")]


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        (HELLO + bytes(32), HELLO + digest(b"a"), digest(b"b")),
        (HELLO + digest(b"a"), b"\0\0\0\0\0" + digest(b"b"), digest(b"c")),
        (HELLO + digest(b"a"), HELLO + digest(b"b") + b"x", digest(b"c")),
        (HELLO + digest(b"a"), HELLO + digest(b"b"), digest(b"c") + b"x"),
        (HELLO + digest(b"a") + digest(b"c"), HELLO + digest(b"b"), b"x"),
    ],
)
def test_other_shapes_are_others(first: bytes, second: bytes, third: bytes) -> None:
    talk = Talk()
    talk.says(first)
    talk.hears(second)
    talk.says(third)
    assert talk.findings == []


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_bytes_raise(ours: bytes, theirs: bytes) -> None:
    talk = Talk(segment=11)
    talk.says(HELLO + ours)
    talk.hears(HELLO + theirs)
    talk.says(ours)
