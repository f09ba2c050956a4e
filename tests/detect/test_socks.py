from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.socks import (
    Incomplete,
    Malformed,
    Request,
    is_socks4,
    is_socks5,
    parse_request4,
    parse_request5,
)
from tests.detect.talk import Talk

LOGIN = b'{"id":1,"method":"login","params":{"login":"a","agent":"b"}}\n'
REPLY5 = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x05\x01\x00\x03\x04pool\x0d\x05", Request(1, "pool", 3333, 11)),
        (b"\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", Request(1, "10.0.0.1", 80, 10)),
        (b"\x05\x02\x00\x04" + bytes(15) + b"\x01\x00\x50", Request(2, "::1", 80, 22)),
    ],
)
def test_requests_of_version_5(data: bytes, expected: Request) -> None:
    assert parse_request5(data + b"rest") == expected
    for end in range(len(data)):
        with pytest.raises(Incomplete):
            parse_request5(data[:end])


def test_requests_of_version_4() -> None:
    assert parse_request4(b"\x04\x01\x00\x50\x0a\x00\x00\x01user\x00") == Request(1, "10.0.0.1", 80, 13)
    assert parse_request4(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00pool\x00x") == Request(1, "pool", 80, 14)
    with pytest.raises(Malformed):
        parse_request4(b"\x04\x07\x00\x50\x0a\x00\x00\x01\x00")


@pytest.mark.parametrize("segment", [0, 1, 3])
def test_a_conversation_with_password(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(b"\x05\x02\x00\x02")
    talk.hears(b"\x05\x02")
    talk.says(b"\x01\x04user\x04pass")
    talk.hears(b"\x01\x00")
    talk.says(b"\x05\x01\x00\x03\x04pool\x0d\x05")
    talk.hears(REPLY5)
    talk.says(LOGIN)
    talk.hears(b'{"id":1,"result":{"status":"KEEPALIVED"}}\n')
    assert talk.seen("socks5") == [
        {
            "Transport": "tcp",
            "Role": "client",
            "DestinationHostname": "pool",
            "DestinationPort": 3333,
            "Command": 1,
        }
    ]
    assert [(found["Method"], found["Transport"]) for found in talk.seen("stratum")] == [
        ("login", "socks5>tcp"),
        ("keepalived", "socks5>tcp"),
    ]
    assert talk.seen("stratum")[0]["DestinationHostname"] == "pool"


@pytest.mark.parametrize("segment", [0, 1])
def test_version_4a(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(b"\x04\x01\x00\x50\x00\x00\x00\x01\x00pool\x00")
    talk.hears(b"\x00\x5a" + bytes(6))
    talk.says(LOGIN)
    assert talk.seen("stratum")[0]["Transport"] == "socks4>tcp"


def test_a_client_that_waits_for_nothing() -> None:
    talk = Talk(segment=1)
    talk.says(b"\x05\x01\x00" + b"\x05\x01\x00\x03\x04pool\x0d\x05" + LOGIN)
    assert [finding.protocol for finding in talk.findings] == ["socks5", "stratum"]


def test_a_request_whose_greeting_was_not_captured() -> None:
    talk = Talk()
    talk.says(b"\x05\x01\x00\x03\x04pool\x0d\x05")
    talk.hears(REPLY5)
    talk.says(LOGIN)
    assert talk.seen("stratum") != []


def test_the_watched_process_may_be_the_proxy() -> None:
    talk = Talk(initiated=False)
    talk.hears(b"\x05\x01\x00")
    talk.says(b"\x05\x00")
    talk.hears(b"\x05\x01\x00\x03\x04pool\x0d\x05")
    assert talk.seen("socks5")[0]["Role"] == "server"


def test_a_lost_reply_hides_nothing_of_the_client() -> None:
    talk = Talk()
    talk.says(b"\x05\x01\x00")
    talk.hears(b"\x05\x00")
    talk.says(b"\x05\x01\x00\x03\x04pool\x0d\x05")
    talk.says(LOGIN)
    assert talk.seen("stratum") != []


@pytest.mark.parametrize("data", [b"\x05\x00", b"\x05\x20", b"\x04\x03\x00\x50\x0a\x00\x00\x01\x00"])
def test_what_is_no_socks(data: bytes) -> None:
    assert not (is_socks5(data) if data[0] == 5 else is_socks4(data))


@given(
    st.sampled_from([b"", b"\x05", b"\x05\x01\x00\x03", b"\x04\x01", b"\x04\x01\x00\x50"]),
    st.binary(max_size=40),
)
def test_only_the_two_errors(opening: bytes, data: bytes) -> None:
    for parse in (parse_request4, parse_request5):
        with contextlib.suppress(Incomplete, Malformed):
            assert parse(opening + data).length <= len(opening + data)
