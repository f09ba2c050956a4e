from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.dns import Question, Record, is_dns, parse

NAME = b"\x04pool\x07Example\x03com\x00"


def header(flags: int = 0x8180, questions: int = 1, answers: int = 0) -> bytes:
    return b"\x12\x34" + flags.to_bytes(2, "big") + bytes([0, questions, 0, answers]) + bytes(4)


def record(name: bytes, kind: int, value: bytes, ttl: int = 60) -> bytes:
    return (
        name
        + kind.to_bytes(2, "big")
        + b"\x00\x01"
        + ttl.to_bytes(4, "big")
        + len(value).to_bytes(2, "big")
        + value
    )


QUERY = header(0x0100) + NAME + b"\x00\x01\x00\x01"


def test_a_question() -> None:
    message = parse(QUERY)
    assert message is not None
    assert (message.id, message.is_response, message.rcode, message.partial) == (
        0x1234,
        False,
        "NOERROR",
        False,
    )
    assert message.questions == (Question("pool.example.com", "A"),)
    assert is_dns(QUERY)


def test_answers_with_compression() -> None:
    data = header(answers=5) + NAME + b"\x00\x01\x00\x01"
    data += record(b"\xc0\x0c", 5, b"\x01a\xc0\x11")
    data += record(b"\x01a\xc0\x11", 1, b"\x0a\x00\x00\x01", ttl=7)
    data += record(b"\xc0\x0c", 28, bytes(15) + b"\x01")
    data += record(b"\xc0\x0c", 15, b"\x00\x05\x02mx\xc0\x11")
    data += record(b"\xc0\x0c", 16, b"\x03abc\x01d")
    message = parse(data)
    assert message is not None
    assert not message.partial
    assert message.answers == (
        Record("pool.example.com", "CNAME", 60, "a.example.com"),
        Record("a.example.com", "A", 7, "10.0.0.1"),
        Record("pool.example.com", "AAAA", 60, "::1"),
        Record("pool.example.com", "MX", 60, "mx.example.com"),
        Record("pool.example.com", "TXT", 60, "abcd"),
    )
    assert message.addresses == ("10.0.0.1", "::1")


def test_a_cut_answer_keeps_what_came_before() -> None:
    whole = header(answers=2) + NAME + b"\x00\x01\x00\x01" + record(b"\xc0\x0c", 1, b"\x0a\x00\x00\x01") * 2
    message = parse(whole[:-3])
    assert message is not None
    assert message.partial
    assert message.addresses == ("10.0.0.1",)


@pytest.mark.parametrize(
    "name", [b"\xc0\x0c", b"\x01a\xc0\x0c", b"\xc0\x0e\xc0\x0c", b"\xc0\xff", b"\x40a", b"\x05ab"]
)
def test_pointers_that_never_end_do(name: bytes) -> None:
    message = parse(header() + name + b"\x00\x01\x00\x01")
    assert message is not None
    assert message.partial
    assert message.questions == ()


def test_status_and_truncation() -> None:
    message = parse(header(0x8383) + NAME + b"\x00\x63\x00\x01")
    assert message is not None
    assert (message.rcode, message.truncated, message.questions[0].type) == ("NXDOMAIN", True, "TYPE99")


def test_names_are_printable() -> None:
    message = parse(header() + b"\x05a\x1b[2J\x00\x00\x01\x00\x01")
    assert message is not None
    assert message.questions[0].name.isprintable()


def test_too_short_for_a_header() -> None:
    assert parse(b"\x12\x34\x01\x00\x00\x01") is None


def test_other_datagrams_are_no_dns() -> None:
    assert not is_dns(b"d1:ad2:id20:abcdefghij0123456789e")
    assert not is_dns(bytes(40))


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    parse(data)


@given(
    st.lists(
        st.sampled_from([b"\xc0\x0c", b"\xc0\x1a", b"\x01a", b"\x00", b"\x00\x01\x00\x01", b"\x3f"]),
        max_size=40,
    )
)
def test_no_names_raise(parts: list[bytes]) -> None:
    parse(header(answers=9) + b"".join(parts))
    parse(header(questions=9) + b"".join(parts))
