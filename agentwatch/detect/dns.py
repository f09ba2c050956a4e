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


@dataclass(frozen=True, slots=True)
class Question:
    """A name (lower case, without the final dot) and the type asked for, such as `AAAA` or `TYPE99`."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
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
