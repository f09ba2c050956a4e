<<<<<<< HEAD
"""DNS messages (RFC 1035), as far as names and addresses go; EDNS and the rest are skipped."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from agentwatch.detect.finding import text

MAX_QUESTIONS: Final = 16
MAX_RECORDS: Final = 64
_MAX_NAME: Final = 255
_MAX_POINTERS: Final = 32

TYPES: Final = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    10: "NULL",
    12: "PTR",
    15: "MX",
    16: "TXT",
    28: "AAAA",
    33: "SRV",
    41: "OPT",
    64: "SVCB",
    65: "HTTPS",
    255: "ANY",
}
RCODES: Final = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
=======
"""DNS messages off the wire (RFC 1035, 3596, 2782, 9460; unknown types as in RFC 3597).

Names are in lower case, without the final dot; what is not a printable ASCII character, and a dot or
backslash inside a label, is escaped as in RFC 1035 section 5.1 (`\\.`, `\\000`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_HEADER: Final = struct.Struct(">6H")
_RECORD: Final = struct.Struct(">HHIH")
_QUESTIONS_LIMIT: Final = 16
_ANSWERS_LIMIT: Final = 64
_NAME_LIMIT: Final = 255
"""Octets of a name on the wire, RFC 1035 section 2.3.4."""
_VALUE_LIMIT: Final = 1024
"""Octets of a record's data that become text."""

_TYPES: Final = {
    **{1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT"},
    **{28: "AAAA", 33: "SRV", 35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 44: "SSHFP", 46: "RRSIG"},
    **{47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 99: "SPF"},
    **{251: "IXFR", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA"},
}
_RCODES: Final = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET")
>>>>>>> ssh


@dataclass(frozen=True, slots=True)
class Question:
<<<<<<< HEAD
    """A name (lower case, without the final dot) and the type asked for, such as `AAAA` or `TYPE99`."""
=======
    """What is asked: a name and a type (`A`, `TXT`, `TYPE65280`, ...)."""
>>>>>>> ssh

    name: str
    type: str


@dataclass(frozen=True, slots=True)
<<<<<<< HEAD
class Record:
    """An answer. `value`: the address, the name (CNAME, NS, PTR, MX, SRV) or text (TXT); else empty."""

    name: str
    type: str
    ttl: int
    value: str


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """One message. `partial`: the bytes ended, or made no sense, before all that the header counts."""

    id: int
    is_response: bool
    opcode: int
    rcode: str
    truncated: bool
    questions: tuple[Question, ...]
    answers: tuple[Record, ...]
    partial: bool

    @property
    def addresses(self) -> tuple[str, ...]:
        """All A and AAAA answers."""
        return tuple(answer.value for answer in self.answers if answer.type in ("A", "AAAA"))


class _Ended(Exception):
    """The bytes end here, or make no sense."""


def parse(data: bytes) -> DnsMessage | None:
    """Reads one message (over TCP: without the length before it); None if it has no header.

    A message that was cut yields what came before the cut.
    """
    if len(data) < 12:
        return None
    flags = _u16(data, 2)
    question_count, answer_count = _u16(data, 4), _u16(data, 6)
    questions: list[Question] = []
    answers: list[Record] = []
    position, partial = 12, False
    try:
        for _ in range(min(question_count, MAX_QUESTIONS)):
            name, position = _name(data, position)
            questions.append(Question(name, _type(_u16(data, position))))
            _u16(data, position + 2)
            position += 4
        partial = question_count > MAX_QUESTIONS
        for _ in range(0 if partial else min(answer_count, MAX_RECORDS)):
            record, position = _record(data, position)
            answers.append(record)
        partial = partial or answer_count > MAX_RECORDS
    except _Ended:
        partial = True
    rcode = flags & 15
    return DnsMessage(
        id=_u16(data, 0),
        is_response=bool(flags & 0x8000),
        opcode=flags >> 11 & 15,
        rcode=RCODES.get(rcode, f"RCODE{rcode}"),
        truncated=bool(flags & 0x0200),
        questions=tuple(questions),
        answers=tuple(answers),
        partial=partial,
    )


def is_dns(data: bytes) -> bool:
    """Whether this is likely a DNS message: a plain query or answer with one readable question."""
    message = parse(data)
    return (
        message is not None
        and message.opcode == 0
        and _u16(data, 4) == 1
        and len(message.questions) == 1
        and not data[3] & 0x40
    )


def _u16(data: bytes, position: int) -> int:
    if position + 2 > len(data):
        raise _Ended
    return data[position] << 8 | data[position + 1]


def _type(number: int) -> str:
    return TYPES.get(number, f"TYPE{number}")


def _name(data: bytes, position: int) -> tuple[str, int]:
    """A name and the position after it. Pointers go backwards only (RFC 1035 4.1.4), so they end."""
    labels: list[bytes] = []
    length, pointers, end, earliest = 0, 0, -1, position
    while True:
        if position >= len(data):
            raise _Ended
        size = data[position]
        if size == 0:
            break
        if size >= 0xC0:
            target = _u16(data, position) & 0x3FFF
            end = position + 2 if end < 0 else end
            pointers += 1
            if target >= earliest or pointers > _MAX_POINTERS:
                raise _Ended
            position = earliest = target
            continue
        if size > 63 or position + 1 + size > len(data):
            raise _Ended
        labels.append(data[position + 1 : position + 1 + size])
        length += size + 1
        if length > _MAX_NAME:
            raise _Ended
        position += 1 + size
    return text(b".".join(labels)).lower(), position + 1 if end < 0 else end


def _record(data: bytes, position: int) -> tuple[Record, int]:
    name, position = _name(data, position)
    kind = _type(_u16(data, position))
    ttl = _u16(data, position + 4) << 16 | _u16(data, position + 6)
    start = position + 10
    end = start + _u16(data, position + 8)
    if end > len(data):
        raise _Ended
    return Record(name, kind, ttl, _value(data, kind, start, end)), end


def _value(data: bytes, kind: str, start: int, end: int) -> str:
    if (kind, end - start) in (("A", 4), ("AAAA", 16)):
        return str(ipaddress.ip_address(data[start:end]))
    if kind in ("CNAME", "NS", "PTR", "MX", "SRV"):
        return _name(data, start + {"MX": 2, "SRV": 6}.get(kind, 0))[0]
    if kind == "TXT":
        return text(b"".join(_strings(data[start:end])))
    return ""


def _strings(data: bytes) -> list[bytes]:
    """Counted strings (RFC 1035 3.3)."""
    strings, position = [], 0
    while position < len(data):
        strings.append(data[position + 1 : position + 1 + data[position]])
        position += 1 + data[position]
    return strings
=======
class Answer:
    """A record of the answer section; `ttl` in seconds, `value` as text (at most 1024 octets' worth)."""

    name: str
    type: str
    value: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Message:
    """A query or response.

    `truncated` is the TC bit. `complete` is False where questions or answers that the header counts
    are missing here: bytes that were not captured, more than 16 questions or 64 answers, or a
    malformed record. `rcode` is the name (`NXDOMAIN`), or `RCODE11` for one without.
    """

    id: int
    is_response: bool
    truncated: bool
    rcode: str
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    complete: bool


class _Malformed(Exception):
    """The bytes end early or are no name."""


def parse(data: bytes) -> Message | None:
    """The DNS message that `data`, a datagram's payload, is; None if it is none.

    Over TCP the two octets of length are not part of the message. Never raises.
    """
    if len(data) < _HEADER.size:
        return None
    number, flags, questions_count, answers_count, _, _ = _HEADER.unpack_from(data)
    if flags & 0x7800 > 0x3000 or not (questions_count or answers_count):  # opcodes up to DSO
        return None
    at = _HEADER.size
    questions: list[Question] = []
    answers: list[Answer] = []
    try:
        for _ in range(min(questions_count, _QUESTIONS_LIMIT)):
            question, at = _question(data, at)
            questions.append(question)
        if questions_count <= _QUESTIONS_LIMIT:
            for _ in range(min(answers_count, _ANSWERS_LIMIT)):
                answer, at = _answer(data, at)
                answers.append(answer)
    except _Malformed:
        pass
    if not questions and not answers:
        return None
    return Message(
        id=number,
        is_response=bool(flags & 0x8000),
        truncated=bool(flags & 0x0200),
        rcode=_RCODES[flags & 15] if flags & 15 < len(_RCODES) else f"RCODE{flags & 15}",
        questions=tuple(questions),
        answers=tuple(answers),
        complete=len(questions) == questions_count and len(answers) == answers_count,
    )


def _question(data: bytes, at: int) -> tuple[Question, int]:
    name, at = _name(data, at)
    if at + 4 > len(data):
        raise _Malformed
    return Question(name, _type(int.from_bytes(data[at : at + 2], "big"))), at + 4


def _answer(data: bytes, at: int) -> tuple[Answer, int]:
    name, at = _name(data, at)
    if at + _RECORD.size > len(data):
        raise _Malformed
    kind, _, ttl, length = _RECORD.unpack_from(data, at)
    at += _RECORD.size
    end = at + length
    if end > len(data):
        raise _Malformed
    return Answer(name, _type(kind), _value(data, at, end, kind), ttl), end


def _type(number: int) -> str:
    return _TYPES.get(number, f"TYPE{number}")


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name at `at` and where it ends there. Pointers only lead back, so that they come to an end."""
    labels: list[str] = []
    size = 1
    end = None
    lowest = at
    while True:
        if at >= len(data):
            raise _Malformed
        length = data[at]
        if length >= 0xC0:
            if at + 2 > len(data):
                raise _Malformed
            end = at + 2 if end is None else end
            at = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
            if at >= lowest:
                raise _Malformed
            lowest = at
            continue
        at += 1
        size += length + 1
        if length >= 0x40 or size > _NAME_LIMIT + 1 or at + length > len(data):
            raise _Malformed
        if length == 0:
            return ".".join(labels) or ".", at if end is None else end
        labels.append(_escaped(data[at : at + length], ".\\").lower())
        at += length


def _escaped(octets: bytes, special: str) -> str:
    letters = []
    for octet in octets:
        letter = chr(octet)
        if letter in special:
            letters.append(f"\\{letter}")
        elif 0x20 < octet < 0x7F or (octet == 0x20 and "." not in special):
            letters.append(letter)
        else:
            letters.append(f"\\{octet:03d}")
    return "".join(letters)


def _value(data: bytes, at: int, end: int, kind: int) -> str:
    """A record's data as text; in the form of RFC 3597 where the type is unknown or the data malformed."""
    read = _READERS.get(_type(kind))
    if read is not None:
        try:
            return read(data, at, end)
        except _Malformed:
            pass
    octets = data[at : min(end, at + _VALUE_LIMIT)]
    return f"\\# {end - at} {octets.hex()}".rstrip()


def _address4(data: bytes, at: int, end: int) -> str:
    if end - at != 4:
        raise _Malformed
    return str(IPv4Address(data[at:end]))


def _address6(data: bytes, at: int, end: int) -> str:
    if end - at != 16:
        raise _Malformed
    return str(IPv6Address(data[at:end]))


def _strings(data: bytes, at: int, end: int) -> str:
    """The character strings of a TXT record, joined, as its readers join them."""
    octets = bytearray()
    while at < end and len(octets) < _VALUE_LIMIT:
        following = at + 1 + data[at]
        if following > end:
            raise _Malformed
        octets += data[at + 1 : following]
        at = following
    return _escaped(bytes(octets[:_VALUE_LIMIT]), "\\")


def _numbers_and_name(count: int) -> Callable[[bytes, int, int], str]:
    """Reads `count` 16-bit numbers and a name: MX, SRV, and SVCB without its parameters."""

    def read(data: bytes, at: int, end: int) -> str:
        after = at + 2 * count
        if after > end:
            raise _Malformed
        numbers = struct.unpack_from(f">{count}H", data, at)
        name, stop = _name(data, after)
        if stop > end:
            raise _Malformed
        return " ".join([*map(str, numbers), name])

    return read


def _soa(data: bytes, at: int, end: int) -> str:
    source, at = _name(data, at)
    mailbox, at = _name(data, at)
    if at + 20 != end:
        raise _Malformed
    return " ".join([source, mailbox, *map(str, struct.unpack_from(">5I", data, at))])


_READERS: Final[dict[str, Callable[[bytes, int, int], str]]] = {
    "A": _address4,
    "AAAA": _address6,
    "CNAME": _numbers_and_name(0),
    "DNAME": _numbers_and_name(0),
    "HTTPS": _numbers_and_name(1),
    "MX": _numbers_and_name(1),
    "NS": _numbers_and_name(0),
    "PTR": _numbers_and_name(0),
    "SOA": _soa,
    "SPF": _strings,
    "SRV": _numbers_and_name(3),
    "SVCB": _numbers_and_name(1),
    "TXT": _strings,
}
>>>>>>> ssh
