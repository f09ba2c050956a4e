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


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a name and a type (`A`, `TXT`, `TYPE65280`, ...)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
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
