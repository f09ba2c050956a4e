from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.websocket import is_websocket, unmask
from tests.detect.talk import Talk

KEY = b"\x37\xfa\x21\x3d"
LOGIN = json.dumps({"id": 1, "method": "login", "params": {"login": "a", "agent": "b"}}).encode()
UPGRADE = (
    b"GET /proxy HTTP/1.1\r\nHost: ws.example\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: chisel-v3\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def frame(payload: bytes, first: int = 0x81, masked: bool = True) -> bytes:
    size = len(payload)
    mark = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mark | size])
    elif size < 65536:
        head = bytes([first, mark | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, mark | 127]) + size.to_bytes(8, "big")
    return head + KEY + unmask(payload, KEY, 0) if masked else head + payload


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


def opened(segment: int = 0) -> Talk:
    talk = Talk(segment=segment)
    talk.says(UPGRADE)
    talk.hears(SWITCHED)
    return talk


@pytest.mark.parametrize("segment", [0, 1, 7])
def test_masked_messages_are_read(segment: int) -> None:
    talk = opened(segment)
    talk.says(frame(LOGIN))
    talk.hears(frame(b'{"id":1,"result":{"status":"KEEPALIVED"}}', masked=False))
    assert [(found["Method"], found["Transport"]) for found in talk.seen("stratum")] == [
        ("login", "websocket"),
        ("keepalived", "websocket"),
    ]
    assert talk.seen("websocket") == [
        {
            "Transport": "tcp",
            "Role": "client",
            "DestinationHostname": "ws.example",
            "Path": "/proxy",
            "Subprotocol": "chisel-v3",
        }
    ]


def test_fragments_are_joined_across_control_frames() -> None:
    talk = opened(segment=3)
    talk.says(frame(LOGIN[:20], 0x01) + frame(b"ping", 0x89) + frame(LOGIN[20:], 0x80))
    assert talk.seen("stratum") != []


def test_each_message_is_read_for_itself() -> None:
    talk = opened()
    talk.says(frame(b"hello") + frame(b'{"broken": ') + frame(b"") + frame(b"\n") + frame(LOGIN, 0x82))
    assert talk.seen("stratum") != []


def test_long_frames() -> None:
    talk = opened(segment=100)
    talk.says(frame(b'{"pad":"' + b"x" * 70000 + b'"}') + frame(LOGIN))
    assert talk.seen("stratum") != []


@pytest.mark.parametrize("segment", [0, 1])
def test_compressed_messages_with_context(segment: int) -> None:
    talk = opened(segment)
    deflate = zlib.compressobj(wbits=-15)

    def compressed(data: bytes) -> bytes:
        return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]

    talk.says(frame(compressed(b'{"id":0,"method":"agent","login":"params"}'), 0xC1))
    talk.says(frame(compressed(LOGIN), 0xC1))
    assert talk.seen("stratum") != []


def test_a_bomb_is_not_inflated() -> None:
    talk = opened()
    talk.says(frame(deflated(b"[" * 3_000_000), 0xC1))
    talk.says(frame(LOGIN))
    assert talk.seen("stratum") != []


def test_an_ssh_banner_inside() -> None:
    talk = opened()
    talk.says(frame(b"SSH-chisel-v3-client\r\n", 0x82))
    assert talk.seen("ssh")[0]["Client"] == "v3-client"
    assert talk.seen("ssh")[0]["Transport"] == "websocket"


def test_a_cut_frame_does_not_derange_the_next_message() -> None:
    talk = opened()
    talk.says(frame(b'{"pad":"' + b"x" * 2000 + b'"}'), captured=512)
    talk.hears(frame(b"{}", masked=False))
    talk.says(frame(LOGIN))
    assert talk.seen("stratum") != []


def test_joined_after_the_handshake() -> None:
    talk = Talk(segment=1)
    talk.says(frame(LOGIN))
    assert talk.seen("stratum")[0]["Transport"] == "websocket"


def test_quoted_stratum_proves_nothing() -> None:
    talk = opened()
    talk.says(frame(json.dumps({"channel": "shell", "content": {"code": LOGIN.decode()}}).encode()))
    assert talk.seen("stratum") == []


def test_a_refused_upgrade_goes_on_in_http() -> None:
    talk = Talk()
    talk.says(UPGRADE)
    talk.hears(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    talk.says(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(LOGIN) + LOGIN)
    assert talk.seen("stratum")[0]["Transport"] == "http"


@given(st.binary(max_size=40), st.binary(min_size=4, max_size=4), st.integers(0, 9))
def test_unmask_is_its_own_inverse_and_bytewise(data: bytes, key: bytes, offset: int) -> None:
    masked = unmask(data, key, offset)
    assert unmask(masked, key, offset) == data
    assert masked == bytes(byte ^ key[(offset + at) % 4] for at, byte in enumerate(data))


@given(st.binary(min_size=1, max_size=20))
def test_any_bytes_are_told(head: bytes) -> None:
    assert is_websocket(head) in (True, False, None)


@given(
    st.lists(
        st.tuples(st.sampled_from([0x01, 0x81, 0xC1, 0x80, 0x89, 0x42]), st.binary(max_size=30)), max_size=6
    )
)
def test_no_frames_raise(frames: list[tuple[int, bytes]]) -> None:
    talk = opened(segment=5)
    for first, payload in frames:
        talk.says(frame(payload, first))
