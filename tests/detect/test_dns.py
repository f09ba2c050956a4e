from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.dns import Question, Record, is_question, is_stream, parse
from tests.detect.talk import Talk

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
    assert (message.is_response, message.rcode, message.partial) == (False, "NOERROR", False)
    assert message.questions == (Question("pool.example.com", "A"),)
    assert is_question(QUERY)


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
    assert not is_question(b"d1:ad2:id20:abcdefghij0123456789e")
    assert not is_question(bytes(40))


@pytest.mark.parametrize(
    ("data", "asks"),
    [
        (QUERY, True),
        (header(0x0120) + NAME + b"\0\x10\0\1", True),
        (QUERY[:11] + b"\1" + QUERY[12:] + b"\0\0\x29\x10\0" + bytes(6), True),
        (header(0) + b"\0\0\2\0\1", True),
        (QUERY + b"x", False),
        (QUERY[:-1], False),
        (header(0x8180) + QUERY[12:], False),
        (header(0x2900) + QUERY[12:], False),
        (header(0x0100, questions=2) + QUERY[12:], False),
        (header(0x0100, answers=1) + QUERY[12:], False),
        (QUERY[:-4] + b"\1\x50\0\1", False),
        (QUERY[:-4] + b"\0\1\0\3", False),
        (QUERY[:11] + b"\1" + QUERY[12:] + b"abc", False),
    ],
)
def test_questions_on_any_port(data: bytes, asks: bool) -> None:
    assert is_question(data) is asks


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


@pytest.mark.parametrize("segment", [0, 1, 20])
def test_dns_over_tcp(segment: int) -> None:
    answer = header(answers=1) + QUERY[12:] + record(b"\xc0\x0c", 1, b"\x0a\x00\x00\x01")
    other = QUERY.replace(b"pool", b"mine")
    talk = Talk(segment=segment)
    talk.says(framed(QUERY) + framed(other))
    talk.hears(framed(answer))
    talk.says(framed(QUERY))
    names = [(found["QueryName"], found["QueryResults"]) for found in talk.seen("dns")]
    assert names == [("pool.example.com", ()), ("mine.example.com", ()), ("pool.example.com", ("10.0.0.1",))]
    assert [found.get("QueryStatus") for found in talk.seen("dns")] == [None, None, "NOERROR"]


def test_an_answer_over_tcp_that_was_cut_is_read_as_far_as_it_goes() -> None:
    records = record(b"\xc0\x0c", 16, b"\xff" + b"x" * 255) * 3
    talk = Talk()
    talk.says(framed(QUERY))
    (found,) = talk.hears(framed(header(answers=3) + QUERY[12:] + records), captured=512)
    assert found.cut == {"QueryResults"}
    assert found.attributes["QueryResults"] == ("x" * 255,)
    talk.says(framed(QUERY.replace(b"pool", b"next")))
    talk.hears(framed(header() + QUERY[12:].replace(b"pool", b"last")))
    assert [one["QueryName"] for one in talk.seen("dns")][-2:] == ["next.example.com", "last.example.com"]


def test_streams_that_are_no_dns() -> None:
    assert is_stream(b"\0") is None
    assert is_stream(b"\0\x22\x12\x34\1\0\0\1") is None
    assert is_stream(b"\0\x22\x12\x34\1\0\0\2") is False
    assert is_stream(b"\0\x22\x12\x34\x85") is False
    assert is_stream(b"\0\5\0\1\1") is False


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    parse(data)
    is_question(data)
    is_question(QUERY[:12] + data)
    talk = Talk(segment=30)
    talk.says(framed(QUERY) + data)
    talk.hears(data)


@given(
    st.lists(
        st.sampled_from([b"\xc0\x0c", b"\xc0\x1a", b"\x01a", b"\x00", b"\x00\x01\x00\x01", b"\x3f"]),
        max_size=40,
    )
)
def test_no_names_raise(parts: list[bytes]) -> None:
    parse(header(answers=9) + b"".join(parts))
    parse(header(questions=9) + b"".join(parts))
