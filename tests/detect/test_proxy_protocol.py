from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.proxy_protocol import header_end, is_header
from tests.detect.talk import Talk

TEXT = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 3333\r\n"
BINARY = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)
SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":[]}\n'


@pytest.mark.parametrize("header", [TEXT, BINARY])
@pytest.mark.parametrize("segment", [0, 1, 5])
def test_what_follows_is_recognised(header: bytes, segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(header + SUBSCRIBE)
    talk.hears(b'{"id":1,"result":{"status":"KEEPALIVED"}}\n')
    assert [found["Method"] for found in talk.seen("stratum")] == ["mining.subscribe", "keepalived"]


def test_headers_are_bounded() -> None:
    talk = Talk()
    talk.says(b"PROXY " + b"x" * 200 + b"\n" + SUBSCRIBE)
    assert talk.findings == []
    assert talk.conversation.finished


@given(st.sampled_from([TEXT, BINARY, b"PROXY ", BINARY[:14]]), st.binary(max_size=30), st.integers(0, 20))
def test_no_header_raises(opening: bytes, rest: bytes, cut: int) -> None:
    data = opening[: len(opening) - cut] + rest
    assert is_header(data) in (True, False, None)
    assert -1 <= header_end(data) <= len(data)
