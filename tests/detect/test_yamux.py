from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.yamux import is_yamux
from tests.detect.talk import Talk


def frame(kind: int, flags: int, stream: int, data: bytes = b"", length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return (
        bytes([0, kind])
        + flags.to_bytes(2, "big")
        + stream.to_bytes(4, "big")
        + size.to_bytes(4, "big")
        + data
    )


OPEN = frame(1, 1, 1, length=6 << 20)
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":[]}\n'


@pytest.mark.parametrize("segment", [0, 1, 7])
def test_what_the_first_stream_carries_is_read(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(OPEN + frame(0, 0, 1, SUBSCRIBE[:20]) + frame(2, 1, 0, length=7))
    talk.says(frame(0, 0, 3, b"GET / HTTP/1.1\r\n\r\n") + frame(0, 0, 1, SUBSCRIBE[20:]))
    talk.hears(frame(1, 2, 1) + frame(0, 0, 1, b'{"id":1,"result":true}\n'))
    assert [found.protocol for found in talk.findings] == ["yamux", "stratum", "stratum"]
    assert talk.findings[1].attributes["Transport"] == "yamux"


def test_a_cut_hides_what_it_hides() -> None:
    talk = Talk()
    talk.says(OPEN + frame(0, 0, 1, b"x" * 900), captured=300)
    talk.hears(frame(1, 2, 1))
    talk.says(frame(0, 0, 1, SUBSCRIBE))
    assert [found.protocol for found in talk.findings] == ["yamux", "stratum"]


def test_what_is_no_yamux() -> None:
    assert is_yamux(OPEN[:11]) is None
    assert is_yamux(frame(2, 1, 0)) is False
    assert is_yamux(frame(0, 0, 1)) is False
    assert is_yamux(frame(1, 1, 3)) is False
    talk = Talk()
    talk.says(OPEN + b"\1" * 12)
    assert talk.conversation.finished


@given(st.binary(max_size=100))
def test_no_frames_raise(data: bytes) -> None:
    talk = Talk(segment=9)
    talk.says(OPEN + data)
    talk.hears(frame(0, 0, 1, data) + data)
