<<<<<<< HEAD
from __future__ import annotations

=======
"""Messages are written here octet by octet, as RFC 1035 gives them."""

from __future__ import annotations

import struct
from ipaddress import ip_address

>>>>>>> ssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

<<<<<<< HEAD
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
=======
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
>>>>>>> ssh
