"""Messages are written here octet by octet, as RFC 1035 gives them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.dns import Answer, Question, parse

QUERY, RESPONSE = 0x0100, 0x8180
EXAMPLE = b"\x07example\x03com\x00"


def header(flags: int, questions: int, answers: int = 0) -> bytes:
    return struct.pack(">6H", 0x1234, flags, questions, answers, 0, 0)


def question(name: bytes, kind: int = 1) -> bytes:
    return name + struct.pack(">HH", kind, 1)


def record(name: bytes, kind: int, data: bytes, ttl: int = 60) -> bytes:
    return name + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def answered(kind: int, data: bytes) -> str:
    message = parse(header(RESPONSE, 1, 1) + question(EXAMPLE, kind) + record(b"\xc0\x0c", kind, data))
    assert message is not None
    (answer,) = message.answers
    assert (answer.name, answer.ttl) == ("example.com", 60)
    return answer.value


def test_a_query() -> None:
    message = parse(header(QUERY, 1) + question(b"\x03WWW" + EXAMPLE, 28))
    assert message is not None
    assert (message.id, message.is_response, message.truncated, message.rcode) == (
        0x1234,
        False,
        False,
        "NOERROR",
    )
    assert message.questions == (Question("www.example.com", "AAAA"),)
    assert message.answers == ()
    assert message.complete


def test_a_response_with_compressed_names() -> None:
    data = header(RESPONSE, 1, 2) + question(b"\x03www" + EXAMPLE)
    data += record(b"\xc0\x0c", 5, b"\x04edge\xc0\x10") + record(
        b"\x04edge\xc0\x10", 1, bytes([192, 0, 2, 7]), 5
    )
    message = parse(data)
    assert message is not None
    assert message.is_response
    assert message.answers == (
        Answer("www.example.com", "CNAME", "edge.example.com", 60),
        Answer("edge.example.com", "A", "192.0.2.7", 5),
    )


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (1, bytes([10, 0, 0, 1]), "10.0.0.1"),
        (28, ip_address("2001:db8::1").packed, "2001:db8::1"),
        (2, b"\x02ns\xc0\x0c", "ns.example.com"),
        (12, b"\xc0\x0c", "example.com"),
        (15, b"\x00\x0a\x04mail\xc0\x0c", "10 mail.example.com"),
        (16, b"\x05hello\x07 world\\", "hello world\\\\"),
        (16, b"\x03\x00\xffa", "\\000\\255a"),
        (16, b"", ""),
        (33, b"\x00\x01\x00\x02\x1f\x90\xc0\x0c", "1 2 8080 example.com"),
        (6, b"\x00\x00" + struct.pack(">5I", 1, 2, 3, 4, 5), ". . 1 2 3 4 5"),
        (65, b"\x00\x01\x00\x00\x01\x00\x03\x02h3", "1 ."),
        (65280, b"\x01\x02", "\\# 2 0102"),
        (1, b"\x01", "\\# 1 01"),
        (1, b"", "\\# 0"),
        (28, b"\x01\x02\x03\x04", "\\# 4 01020304"),
        (16, b"\x09short", "\\# 6 0973686f7274"),
        (15, b"\x00", "\\# 1 00"),
        (5, b"\x04edge", "\\# 5 0465646765"),
    ],
)
def test_values(kind: int, data: bytes, value: str) -> None:
    assert answered(kind, data) == value


def test_names_are_printable() -> None:
    message = parse(
        header(QUERY, 3) + question(b"\x05a.b\\\x00\x00") + question(b"\x00", 2) + question(b"\x01 \x00", 99)
    )
    assert message is not None
    assert [q.name for q in message.questions] == ["a\\.b\\\\\\000", ".", "\\032"]
    assert [q.type for q in message.questions] == ["A", "NS", "SPF"]


@pytest.mark.parametrize(("flags", "rcode"), [(0x8183, "NXDOMAIN"), (0x8185, "REFUSED"), (0x818B, "RCODE11")])
def test_codes(flags: int, rcode: str) -> None:
    message = parse(header(flags, 1) + question(EXAMPLE))
    assert message is not None
    assert message.rcode == rcode


def test_the_bit_of_truncation() -> None:
    message = parse(header(RESPONSE | 0x0200, 1) + question(EXAMPLE))
    assert message is not None
    assert message.truncated
    assert message.complete


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 12,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        header(QUERY, 1),
        header(QUERY, 1) + b"\xc0\x0c\x00\x01\x00\x01",
        header(QUERY, 1) + b"\xc0\x0e\xc0\x0c\x00\x01\x00\x01",
        header(QUERY, 1) + b"\xc0\xff\x00\x01\x00\x01",
        header(QUERY, 1) + b"\xc0",
        header(QUERY, 1) + b"\x80a\x00\x00\x01\x00\x01",
        header(QUERY, 1) + EXAMPLE + b"\x00\x01",
        header(QUERY, 1) + question((b"\x3f" + b"a" * 63) * 4 + b"\x00"),
        header(0x7800, 1) + question(EXAMPLE),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    assert parse(data) is None


def test_what_was_not_captured_is_said_to_be_missing() -> None:
    whole = header(RESPONSE, 1, 2) + question(EXAMPLE) + 2 * record(b"\xc0\x0c", 1, bytes(4))
    message = parse(whole[:-1])
    assert message is not None
    assert (len(message.answers), message.complete) == (1, False)


def test_the_longest_name() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\x00"
    assert len(name) == 255
    message = parse(header(QUERY, 1) + question(name))
    assert message is not None
    assert len(message.questions[0].name) == 253


def test_counts_are_bounded() -> None:
    message = parse(header(RESPONSE, 1, 60000) + question(EXAMPLE) + 4000 * record(b"\xc0\x0c", 1, bytes(4)))
    assert message is not None
    assert (len(message.answers), message.complete) == (64, False)
    message = parse(header(QUERY, 60000) + 10000 * question(b"\x00"))
    assert message is not None
    assert (len(message.questions), message.complete) == (16, False)
    assert len(answered(16, (b"\xff" + b"\x00" * 255) * 200)) == 4 * 1024


LABELS = st.lists(st.from_regex(r"\A[a-z0-9_-]{1,20}\Z"), min_size=1, max_size=6)


@given(labels=LABELS, kind=st.sampled_from([1, 16, 28, 65]), packed=st.binary(min_size=4, max_size=4))
def test_what_is_written_is_read(labels: list[str], kind: int, packed: bytes) -> None:
    name = b"".join(bytes([len(label)]) + label.upper().encode() for label in labels) + b"\x00"
    message = parse(header(RESPONSE, 1, 1) + question(name, kind) + record(b"\xc0\x0c", 1, packed))
    assert message is not None
    assert message.questions[0].name == ".".join(labels)
    assert message.answers[0].value == str(ip_address(packed))


PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([EXAMPLE, b"\xc0\x0c", b"\xc0\x0e", b"\x00", question(EXAMPLE, 16), b"\x00\x10\x00\x01"]),
    st.builds(
        record,
        st.just(b"\xc0\x0c"),
        st.sampled_from([1, 5, 6, 15, 16, 28, 33, 65, 9]),
        st.binary(max_size=30),
    ),
)


@given(
    start=st.one_of(st.binary(max_size=14), st.just(header(RESPONSE, 1, 3))),
    rest=st.lists(PIECES, max_size=6),
)
def test_anything_is_parsed(start: bytes, rest: list[bytes]) -> None:
    message = parse(start + b"".join(rest))
    if message is not None:
        names = [question.name for question in message.questions] + [
            answer.name for answer in message.answers
        ]
        assert all(name.isascii() and name.isprintable() and name == name.lower() for name in names)
        assert all(answer.value.isascii() and answer.value.isprintable() for answer in message.answers)
