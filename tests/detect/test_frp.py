from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.frp import is_message
from tests.detect.hellos import openssl_client
from tests.detect.talk import Talk
from tests.detect.test_yamux import OPEN, frame

LOGIN = {"version": "0.61.0", "hostname": "h", "os": "linux", "arch": "amd64", "user": "u",
         "privilege_key": "0" * 32, "timestamp": 1, "pool_count": 1}  # fmt: skip


def message(letter: bytes, content: dict[str, object]) -> bytes:
    data = json.dumps(content, separators=(",", ":")).encode()
    return letter + len(data).to_bytes(8, "big") + data


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize(
    "first",
    [
        message(b"o", LOGIN),
        message(b"o", LOGIN | {"metas": {"a": "b" * 900}}),
        message(b"w", {"run_id": "0011", "privilege_key": "x"}),
        message(b"v", {"run_id": "0011", "proxy_name": "ssh", "sign_key": "x"}),
    ],
)
def test_clients_without_tls(segment: int, first: bytes) -> None:
    talk = Talk(segment=segment)
    talk.says(first)
    assert [found["Behaviour"] for found in talk.seen("frp")] == ["tunnel_tool"]


def test_inside_yamux() -> None:
    talk = Talk()
    login = message(b"o", LOGIN)
    talk.says(OPEN + frame(0, 0, 1, login[:1]) + frame(0, 0, 1, login[1:9]) + frame(0, 0, 1, login[9:]))
    assert [(found.protocol, found.attributes["Transport"]) for found in talk.findings] == [
        ("yamux", "tcp"),
        ("frp", "yamux"),
    ]


@pytest.mark.parametrize("segment", [0, 1])
def test_the_byte_before_tls(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(b"\x17" + openssl_client("frps.example"))
    assert [found.protocol for found in talk.findings] == ["frp", "tls"]
    assert talk.seen("tls")[0]["ServerName"] == "frps.example"


@pytest.mark.parametrize(
    "data",
    [
        b"ok, let us go on then",
        message(b"o", {"op": "version", "v": 1}),
        message(b"w", {"worker": 1}),
        b"o" + (1 << 20).to_bytes(8, "big") + b"{",
        b"o" + bytes(9),
    ],
)
def test_what_is_none(data: bytes) -> None:
    assert is_message(data) is False


@given(st.binary(max_size=40))
def test_no_message_raises(data: bytes) -> None:
    is_message(b"o" + data)
    is_message(b"v" + bytes(6) + data)
    talk = Talk()
    talk.says(b"\x17\x16\x03" + data)
    talk.hears(data)
