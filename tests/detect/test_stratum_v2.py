from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.stratum_v2 import is_setup_connection
from tests.detect.talk import Talk


def setup_connection(*strings: bytes, protocol: int = 0) -> bytes:
    host, *rest = strings
    counted = bytes([len(host)]) + host + b"\xce\x85" + b"".join(bytes([len(part)]) + part for part in rest)
    payload = bytes([protocol]) + b"\x02\x00\x02\x00" + bytes(4) + counted
    return b"\x00\x00\x00" + len(payload).to_bytes(3, "little") + payload


def random(length: int, seed: int) -> bytes:
    return hashlib.shake_256(bytes([seed])).digest(length)


@pytest.mark.parametrize("segment", [0, 1])
def test_setup_connection_in_the_clear(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(setup_connection(b"pool.example", b"Vendor", b"S21", b"fw", b"id"))
    assert talk.seen("stratum") == [
        {
            "Transport": "tcp",
            "Role": "client",
            "Dialect": "stratum-v2",
            "Method": "SetupConnection",
            "Client": "Vendor S21 fw",
            "Stage": "asked",
        }
    ]


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize(
    ("answer", "methods"),
    [
        (b"\0\0\x01\x06\0\0\x02\0\0\0\0\0", ["SetupConnection", "SetupConnection.Success"]),
        (b"\0\0\x02\x09\0\0\0\0\0\0\x04busy", ["SetupConnection", "SetupConnection.Error"]),
        (b"\0\0\x03\x06\0\0\0\0", ["SetupConnection"]),
        (b"HTTP/1.1 400 Bad Request\r\n", ["SetupConnection"]),
    ],
)
def test_the_answer_of_a_pool(segment: int, answer: bytes, methods: list[str]) -> None:
    talk = Talk(segment=segment)
    talk.says(setup_connection(b"pool.example", b"Vendor", b"S21", b"fw", b"id"))
    talk.hears(answer)
    found = talk.seen("stratum")
    assert [one["Method"] for one in found] == methods
    assert [one["Stage"] for one in found] == ["asked", "answered"][: len(methods)]
    assert {one["Role"] for one in found} == {"client"}
    assert talk.conversation.finished


@pytest.mark.parametrize("data", [b"\0" * 40, b"\0\0\0\xff\xff\xff\0\2\0\2\0", b"\0\0\0\x30\0\0\x09\2\0\2\0"])
def test_what_is_no_setup_connection(data: bytes) -> None:
    assert is_setup_connection(data) is False


@pytest.mark.parametrize("segment", [0, 1, 60])
def test_the_noise_handshake_by_its_sizes(segment: int) -> None:
    talk = Talk(segment=segment and max(segment, 50))
    talk.says(random(64, 1))
    talk.hears(random(234, 2))
    talk.says(random(90, 3))
    assert [(found["Method"], found["Confidence"]) for found in talk.seen("stratum")] == [
        ("Noise_NX", "likely")
    ]


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        (random(65, 1), random(234, 2), random(90, 3)),
        (random(64, 1), random(233, 2), random(90, 3)),
        (random(64, 1), random(234, 2), random(20, 3)),
        (b"\x90" * 64, random(234, 2), random(90, 3)),
    ],
)
def test_other_sizes_are_other_protocols(first: bytes, second: bytes, third: bytes) -> None:
    talk = Talk()
    talk.says(first)
    talk.hears(second)
    talk.says(third)
    assert talk.findings == []


@given(st.binary(max_size=80))
def test_no_message_raises(data: bytes) -> None:
    talk = Talk(segment=9)
    talk.says(setup_connection(b"h", b"v")[:10] + data)


def test_a_pool_that_accepts() -> None:
    talk = Talk()
    talk.hears(b"\0\0\x01\x06\0\0\x02\0\0\0\0\0")
    assert [(found["Method"], found["Role"]) for found in talk.seen("stratum")] == [
        ("SetupConnection.Success", "client")
    ]
