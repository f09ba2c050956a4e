"""DNS messages (RFC 1035), as far as names and addresses go; EDNS and the rest are skipped."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context
from agentwatch.event import Value

MAX_QUESTIONS: Final = 16
MAX_RECORDS: Final = 64
_MAX_NAME: Final = 255
_MESSAGES_KEPT: Final = 512  # that were read lately: the same names are asked for again and again
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
FIELDS: Final = ("QueryName", "QueryType", "QueryResults", "QueryStatus")
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


class DnsMessage:
    """One message. `partial`: the bytes ended, or made no sense, before all that the header counts."""

    __slots__ = (
        "answers",
        "fields",
        "is_response",
        "opcode",
        "partial",
        "questions",
        "rcode",
        "truncated",
    )

    def __init__(
        self,
        is_response: bool,
        opcode: int,
        rcode: str,
        truncated: bool,
        questions: tuple[Question, ...],
        answers: tuple[Record, ...],
        partial: bool,
    ) -> None:
        self.is_response = is_response
        self.opcode = opcode
        self.rcode = rcode
        self.truncated = truncated
        self.questions = questions
        self.answers = answers
        self.partial = partial
        self.fields: dict[str, Value] = {}
        """The FIELDS of category `dns_query`, where there is a question. Messages are remembered: copy it."""
        if questions:
            name, kind = questions[0].name, questions[0].type
            results = tuple([answer.value for answer in answers])
            self.fields = dict(
                zip(FIELDS, (name, kind, results, rcode if is_response else None), strict=True)
            )

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
    return _parse(b"\0\0" + data[2:]) if len(data) >= 12 else None


@lru_cache(maxsize=_MESSAGES_KEPT)
def _parse(data: bytes) -> DnsMessage:
    """Reads a message; its number, in front, tells nothing."""
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
        is_response=bool(flags & 0x8000),
        opcode=flags >> 11 & 15,
        rcode=RCODES.get(rcode, f"RCODE{rcode}"),
        truncated=bool(flags & 0x0200),
        questions=tuple(questions),
        answers=tuple(answers),
        partial=partial,
    )


def is_question(data: bytes) -> bool:
    """Whether this is a question and nothing else: one name, and at most options behind it."""
    if len(data) < _LEAST or data[4:10] != _ONE_QUESTION or not _asks(data[2], data[3]) or data[10]:
        return False
    try:
        _, end = _name(data, 12)
        kind, class_ = _u16(data, end), _u16(data, end + 2)
    except _Ended:
        return False
    rest = data[end + 4 :]
    known = kind <= _LAST_ASSIGNED or kind >= _FIRST_PRIVATE
    return known and class_ in _CLASSES and (rest[:3] in _ADDITIONAL if data[11] else not rest)


_LEAST: Final = 12 + 1 + 4
_ONE_QUESTION: Final = b"\0\1\0\0\0\0"
_LAST_ASSIGNED, _FIRST_PRIVATE = 261, 65280  # types (RFC 6895 and IANA's registry)
_CLASSES: Final = (1, 255)
_ADDITIONAL: Final = (b"\0\0\x29", b"\0\0\xfa")  # EDNS options, without a name; a signature


def _asks(first: int, second: int) -> bool:
    """Whether these flags are a standard query's: only recursion, AD and CD may be set."""
    return not first & 0xFE and not second & 0xCF


def is_stream(head: bytes) -> bool | None:
    """Whether a TCP stream starts with a question (RFC 7766: a length before each message).

    None if more bytes are needed to tell.
    """
    size = int.from_bytes(head[:2], "big")
    if len(head) < 2:
        return None
    if not _LEAST <= size <= _MAX_QUESTION or not _asks(*head[4:6].ljust(2, b"\0")):
        return False
    if not _ONE_QUESTION.startswith(head[6:12]):
        return False
    return is_question(head[2 : 2 + size]) if len(head) >= 2 + size else None


_MAX_QUESTION: Final = 600


class DnsStream:
    """The layer of DNS over TCP: every message is a finding with its `fields`."""

    finished = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._buffers: list[bytes | None] = [b"", b""]  # None: out of step

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        buffer = self._buffers[direction]
        if gap or buffer is None:
            self._read(buffer or b"", cut=True)
            buffer = b"" if start else None
        if buffer is not None:
            buffer += data
            while len(buffer) >= 2 and len(buffer) >= 2 + (size := buffer[0] << 8 | buffer[1]):
                self._read(buffer[: 2 + size], cut=False)
                buffer = buffer[2 + size :]
            if len(buffer) > _MAX_MESSAGE:
                self._read(buffer, cut=True)
                buffer = None
        self._buffers[direction] = buffer

    def _read(self, framed: bytes, cut: bool) -> None:
        message = parse(framed[2:])
        if message is not None and message.questions:
            results = frozenset(("QueryResults",)) if cut and message.is_response else frozenset()
            self._context.emit("dns", "", results, **message.fields)


_MAX_MESSAGE: Final = 4096


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
