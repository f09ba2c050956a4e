from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.http2 import PREFACE, huffman, is_http2
from tests.detect.talk import Talk

NAMED = {"Transport": "tcp", "Role": "client"}
SETTINGS = b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x64"


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# RFC 7541, appendix C: C.3.1 in the clear, C.4.1 with Huffman codes, C.4.3's custom field.
PLAIN = bytes.fromhex("828684410f7777772e6578616d706c652e636f6d")
CODED = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")


@pytest.mark.parametrize(
    ("coded", "clear"),
    [
        ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
        ("a8eb10649cbf", "no-cache"),
        ("25a849e95ba97d7f", "custom-key"),
        ("25a849e95bb8e8b4bf", "custom-value"),
        ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
    ],
)
def test_huffman_codes_of_the_rfc(coded: str, clear: str) -> None:
    assert huffman(bytes.fromhex(coded)) == clear


@pytest.mark.parametrize("segment", [0, 1, 30])
@pytest.mark.parametrize(
    "headers",
    [
        frame(1, 4, PLAIN),
        frame(1, 4, CODED),
        frame(1, 4 | 8 | 32, b"\3" + bytes(5) + CODED + bytes(3)),
    ],
)
def test_the_first_request(segment: int, headers: bytes) -> None:
    talk = Talk(segment=segment)
    talk.says(PREFACE + SETTINGS + frame(8, 0, b"\0\0\xff\xff", 0) + headers)
    assert talk.seen("http2") == [
        NAMED,
        {
            "Transport": "tcp",
            "Role": "client",
            "Method": "GET",
            "DestinationHostname": "www.example.com",
            "Path": "/",
        },
    ]
    assert talk.conversation.finished


def test_of_grpc() -> None:
    block = b"\x83\x86\x45\x0b/pkg.Do/Run\x41\x0eh.example:5005\x7a\x09grpc-go/1\xbe"
    talk = Talk()
    talk.says(PREFACE + SETTINGS + frame(1, 4, block))
    _, found = talk.seen("http2")
    assert (found["Method"], found["Path"], found["Client"]) == ("POST", "/pkg.Do/Run", "grpc-go/1")
    assert found["DestinationHostname"] == "h.example"


def test_after_an_upgrade() -> None:
    talk = Talk()
    talk.says(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n")
    talk.hears(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + SETTINGS)
    talk.says(PREFACE + SETTINGS + frame(1, 4, CODED))
    assert [(found.protocol, found.attributes["Transport"]) for found in talk.findings] == [
        ("http", "tcp"),
        ("http2", "upgrade"),
        ("http2", "upgrade"),
    ]


def test_where_the_request_is_out_of_reach_the_protocol_is_named() -> None:
    for rest in (
        b"\xff\xff\xff\xff\xff",
        b"\x41\x84\xff\xff\xff\xff",
        b"\x41\x7fabc",
        b"\xfe",
    ):
        talk = Talk()
        talk.says(PREFACE + frame(1, 4, b"\x82" + rest))
        assert talk.seen("http2") == [NAMED, NAMED | {"Method": "GET"}]
        assert talk.findings[1].cut == {"DestinationHostname", "Path", "Client"}
    talk = Talk()
    talk.says(PREFACE + frame(4, 0, bytes(600)), captured=512)
    assert talk.seen("http2") == [NAMED]
    assert talk.findings[0].cut == {"Method", "DestinationHostname", "Path", "Client"}
    assert is_http2(PREFACE[:10]) is None and is_http2(b"PRI x") is False


@given(st.binary(max_size=80), st.sampled_from([0, 1, 9]))
def test_no_frames_raise(data: bytes, segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(PREFACE + data)
    talk.hears(data)
    talk = Talk(segment=segment)
    talk.says(PREFACE + frame(1, 0x28, data))
