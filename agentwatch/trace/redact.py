"""Secrets are replaced before anything is folded, kept or written: see docs/redaction.md.

What is found in a round is overwritten by as many asterisks, and the round gets a note of each
place. Everything after this sees the same bytes live and in a replay. Patterns match as little as
holds the secret and never what detectors go by: whoever could have a forwarding or a method masked
by a word before it would hide it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import re2  # type: ignore[import-untyped]

from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import BY_NUMBER, EVENTS, RING_HEADER_SIZE, EventType, PayloadFlag, Type
from agentwatch.schema.layout import body
from agentwatch.sources.base import Batch, BatchKind, Round

MAX_NOTED = 256  # places noted in a round; the bytes of further ones are summed up in one note
MAX_MEMORY = 64 << 20  # bytes of RE2's automata; it begins anew when they are used up
MASK = b"*"


class Secret(NamedTuple):
    """What a secret looks like: its pattern's first group, or what `inside` finds in it."""

    reason: str
    pattern: bytes
    inside: bytes = b""


_NAME = (
    rb"[a-z0-9_.-]*(?:api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|secret|token|passw(?:or)?d"
    rb"|passphrase)"
)
_TOKEN = rb"[A-Za-z0-9._~+/=-]"
_VALUE = rb"[^\x00-\x20\"'\\{}\[\],;&<>]"
_ARGUMENT = rb"[^\x00-\x20\"'\\{}\[\],;&<>:-][^\x00-\x20\"'\\{}\[\],;&<>:]"  # no part of a forwarding

ANYWHERE = (
    Secret(
        "private key",
        rb"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(.*?)(?:-----END|\z)",
        inside=rb"[A-Za-z0-9+/=]{32,}",  # lines of the key; longer than any word of a protocol
    ),
    Secret(
        "password in a URL", rb"[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\x00-\x20/?#@:\"']*:([^\x00-\x20/?#@\"']+)@"
    ),
    Secret("bearer token", rb"(?i)\b(?:bearer|authorization:[ \t]*[a-z]+)[ \t]+(" + _TOKEN + rb"{8,})"),
    Secret("AWS key", rb"\b((?:AKIA|ASIA)[A-Z0-9]{16})\b"),
    Secret("GitHub token", rb"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    Secret("GitLab token", rb"\b(glpat-[A-Za-z0-9_-]{20,})"),
    Secret("API key", rb"\b(sk-[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,})"),
    Secret("Slack token", rb"\b(xox[abeoprs]-[A-Za-z0-9-]{10,})"),
    Secret("registry token", rb"\b(npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,})"),
    Secret("JSON web token", rb"\b(eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"),
)
IN_PAYLOADS = (
    *ANYWHERE,
    Secret(
        "authorization header",
        rb"(?i)(?:\A|[\r\n])(?:proxy-)?authorization:[ \t]*(?:[a-z][a-z0-9-]*[ \t]+)?(" + _TOKEN + rb"{4,})",
    ),
    Secret("cookie", rb"(?i)(?:\A|[\r\n])(?:set-)?cookie:[ \t]*([^\x00-\x1f\"{}]{4,})"),
    Secret("key in a header", rb"(?i)(?:\A|[\r\n])" + _NAME + rb":[ \t]*(" + _VALUE + rb"{4,})"),
    Secret("key in JSON", rb"(?i)[\"']" + _NAME + rb"\\?[\"'][ \t]*:[ \t]*\\?[\"'](" + _VALUE + rb"{4,})"),
    Secret("key in a form", rb"(?i)(?:\A|[?&\r\n])" + _NAME + rb"=(" + _VALUE + rb"{4,})"),
)
IN_ARGUMENTS = (
    *ANYWHERE,
    Secret(
        "header in an argument",
        rb"(?i)\x00-(?:H|-header)[\x00=]?(?:(?:proxy-)?authorization|(?:set-)?cookie|" + _NAME
        + rb"):[ \t]*((?:(?:basic|bearer|token)[ \t]+)?[^\x00]{4,})",
    ),
    Secret(
        "header in a command",
        rb"(?i)[\"'](?:(?:proxy-)?authorization|(?:set-)?cookie|" + _NAME
        + rb"):[ \t]*((?:(?:basic|bearer|token)[ \t]+)?[^\x00\"']{4,})[\"']",
    ),
    Secret("key in an argument", rb"(?i)(?:\A|[\x00 \"'-])" + _NAME + rb"=[\"']?(" + _ARGUMENT + rb"{1,})"),
    Secret("key after an option", rb"(?i)\x00--?" + _NAME + rb"\x00(" + _ARGUMENT + rb"+)(?:\x00|\z)"),
    Secret("password of sshpass", rb"(?:\A|[\x00/])sshpass\x00-p\x00?([^\x00]+)"),
    Secret(
        "password of curl",
        rb"(?:\A|[\x00/])curl\x00(?:[^\x00]*\x00)*?(?:-u|-U|--user|--proxy-user)[\x00=]?[^\x00:]*:([^\x00]+)",
    ),
)  # fmt: skip

Found = tuple[int, int, str]
"""Where in a text, how many bytes, what."""

_Owner = tuple[int, int, int, int]
"""Time, agent, process and start of the record that a secret was in."""

_Note = tuple[Any, ...]


class Patterns:
    """Finds secrets of some kinds in one pass over a text, and a second one where there are any.

    Where a pattern asks for the beginning of the text, it takes a byte `between` texts as well.
    """

    def __init__(self, secrets: Sequence[Secret], between: bytes) -> None:
        self._between = between
        self._reasons = [secret.reason for secret in secrets]
        self._patterns = [re2.compile(secret.pattern) for secret in secrets]
        self._inside = [re2.compile(secret.inside) if secret.inside else None for secret in secrets]
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = MAX_MEMORY
        self._set = re2.Set.SearchSet(options)
        for secret in secrets:
            self._set.Add(secret.pattern)
        self._set.Compile()

    def may_match(self, texts: Sequence[bytes]) -> bool:
        """Whether one of these texts may hold a secret: one pass over all costs less than one over each."""
        return bool(texts) and bool(self._set.Match(self._between.join(texts)))

    def mask(self, text: bytes) -> tuple[bytes, list[Found]]:
        """The text with its secrets masked, as long as it was, and where they were."""
        which = self._set.Match(text)
        if not which:
            return text, []
        found = sorted(place for number in which for place in self._places(number, text))
        masked = bytearray(text)
        for start, size, _ in found:
            masked[start : start + size] = MASK * size
        return bytes(masked), found

    def _places(self, number: int, text: bytes) -> Iterable[Found]:
        inside, reason = self._inside[number], self._reasons[number]
        for match in self._patterns[number].finditer(text):
            start, end = match.span(1)
            spans = [(start, end)]
            if inside is not None:
                spans = [(start + m.start(), start + m.end()) for m in inside.finditer(text[start:end])]
            for begin, stop in spans:
                if not text.startswith(b"HTTP/", begin):  # the end of a request line
                    yield begin, stop - begin, reason


class _Tailed(NamedTuple):
    """Where a record says how much of its tail is data, and where the tail is; from its ring header."""

    length: struct.Struct
    length_at: int
    tail: int


def _at(event: EventType, field: str) -> int:
    return RING_HEADER_SIZE + next(p.offset for p in body(event)[0] if p.field.name == field)


def _tailed(event: EventType) -> _Tailed:
    size = next(p.size for p in body(event)[0] if p.field.name == "length")
    return _Tailed(
        struct.Struct({2: "<H", 4: "<I"}[size]), _at(event, "length"), RING_HEADER_SIZE + body(event)[1]
    )


_TAILED = {int(event.number): _tailed(event) for event in EVENTS if event.tail}
_HEADER = struct.Struct("<I4xQHHIIIQ")  # ring header's length; time, type, flags, agent, tgid, tid, start
_DISCARDED = 1 << 30  # include/uapi/linux/bpf.h: BPF_RINGBUF_DISCARD_BIT
_PIECE = struct.Struct("<IHH")  # offset, length, kind
_COOKIE_AT = _at(BY_NUMBER[Type.PAYLOAD], "cookie")
_SEQUENCE_AT = _at(BY_NUMBER[Type.PAYLOAD], "sequence")
_U64, _U32 = struct.Struct("<Q"), struct.Struct("<I")


class _Text:
    """Bytes that belong together: pieces of one argv, or segments of a stream that follow each other."""

    __slots__ = ("following", "is_argv", "owner", "spans")

    def __init__(self, is_argv: bool, owner: _Owner) -> None:
        self.is_argv, self.owner = is_argv, owner
        self.spans: list[tuple[int, int]] = []
        self.following = -1

    def of(self, data: bytes) -> bytes:
        """The text, from its batch."""
        if len(self.spans) == 1:
            ((start, end),) = self.spans
            return data[start:end]
        return b"".join([data[start:end] for start, end in self.spans])

    def put(self, clean: bytes, batch: bytearray) -> None:
        """Write the text over what is there, piece by piece."""
        done = 0
        for start, end in self.spans:
            batch[start:end] = clean[done : done + end - start]
            done += end - start

    def place_of(self, at: int) -> int:
        """Where in the batch the byte lies that is the text's `at`-th."""
        for start, end in self.spans:
            if at < end - start:
                return start + at
            at -= end - start
        return 0


def _texts(data: bytes, masked: bytearray) -> list[_Text]:
    """The texts in a batch of records. What their tails hold besides is zeroed in `masked`.

    The kernel does not clear what it reserves: behind the data lies what an earlier record left.
    """
    texts: list[_Text] = []
    open_: dict[tuple[int, int], _Text] = {}
    offset, last = 0, len(data) - _HEADER.size
    while offset <= last:
        length, time, number, flags, agent, tgid, tid, start = _HEADER.unpack_from(data, offset)
        end = offset + RING_HEADER_SIZE + (length & ~_DISCARDED)
        if end > len(data):
            break
        tailed = _TAILED.get(number)
        if length & _DISCARDED:
            masked[offset + _HEADER.size : end] = bytes(max(0, end - offset - _HEADER.size))
        elif tailed is not None and offset + tailed.tail <= end:
            (size,) = tailed.length.unpack_from(data, offset + tailed.length_at)
            begin = offset + tailed.tail
            stop = min(begin + size, end)
            masked[stop:end] = bytes(end - stop)
            if stop > begin:
                key, place = _identity(data, offset, number, flags, tid)
                text = open_.get(key)
                if text is None or text.following != place:
                    text = open_[key] = _Text(number == Type.EXEC_PIECE, (time, agent, tgid, start))
                    texts.append(text)
                text.spans.append((begin, stop))
                text.following = (place + stop - begin) & 0xFFFFFFFF
        offset = (end + 7) & ~7
    return texts


def _identity(data: bytes, offset: int, number: int, flags: int, tid: int) -> tuple[tuple[int, int], int]:
    """Whose text a record continues, and where in it the record's data begins."""
    if number == Type.PAYLOAD:
        (cookie,) = _U64.unpack_from(data, offset + _COOKIE_AT)
        return (cookie, flags & PayloadFlag.IN), _U32.unpack_from(data, offset + _SEQUENCE_AT)[0]
    if number == Type.EXEC_PIECE:
        place, _, kind = _PIECE.unpack_from(data, offset + _HEADER.size)
        return (tid, -kind), place
    return (offset, -1), -1


class Redactor:
    """Masks the secrets in rounds. Holds nothing of one round for the next: what straddles two is not found.

    Never raises on any bytes: what cannot be walked is left to the decoders, which refuse it.
    """

    def __init__(
        self, in_payloads: Sequence[Secret] = IN_PAYLOADS, in_arguments: Sequence[Secret] = IN_ARGUMENTS
    ) -> None:
        self._payloads = Patterns(in_payloads, b"\n")
        self._arguments = Patterns(in_arguments, b"\0")
        self._files = Patterns(ANYWHERE, b"\n")

    def __call__(self, batches: Round) -> Round:
        """The round without secrets; where there were any, with a batch of notes that say so."""
        notes: list[_Note] = []
        clean = tuple([self._batch(batch, place, notes) for place, batch in enumerate(batches)])
        return (*clean, Batch(BatchKind.NOTES, pack_notes(_bounded(notes)))) if notes else clean

    def command(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """A command line without its secrets."""
        return self._arguments_of(arguments)[0]

    def _batch(self, batch: Batch, place: int, notes: list[_Note]) -> Batch:
        if batch.kind is BatchKind.RECORDS:
            return Batch(batch.kind, self._records(batch.data, place, notes))
        if batch.kind is BatchKind.NOTES:
            return self._notes(batch, place, notes)
        return batch  # slots hold no text

    def _records(self, data: bytes, place: int, notes: list[_Note]) -> bytes:
        masked = bytearray(data)
        texts = _texts(data, masked)
        for patterns, is_argv in ((self._arguments, True), (self._payloads, False)):
            mine = [(text, text.of(data)) for text in texts if text.is_argv is is_argv]
            if not patterns.may_match([whole for _, whole in mine]):
                continue
            for text, whole in mine:
                clean, found = patterns.mask(whole)
                if found:
                    text.put(clean, masked)
                    notes += [
                        _note(text.owner, place, text.place_of(at), size, why) for at, size, why in found
                    ]
        return bytes(masked)

    def _notes(self, batch: Batch, place: int, notes: list[_Note]) -> Batch:
        """Notes with text of an agent's: the argv of a process found running, a file read for a detector."""
        try:
            items = msgpack.unpackb(batch.data, use_list=False, strict_map_key=True)
            clean = [self._note(item, place, notes) for item in items]
        except Exception:  # msgpack raises many kinds for hostile bytes; the decoders refuse them
            return batch
        return batch if clean == list(items) else Batch(batch.kind, pack_notes(clean))

    def _note(self, item: tuple[Any, ...], place: int, notes: list[_Note]) -> tuple[Any, ...]:
        number, time, agent, tgid, start, *fields = item
        if number == Type.PROCESS:
            fields[_ARGV], found = self._arguments_of(fields[_ARGV])
        elif number == Type.FILE:
            fields[_CONTENT], found = self._files.mask(fields[_CONTENT])
        else:
            return item
        notes += [_note((time, agent, tgid, start), place, at, size, why) for at, size, why in found]
        return (number, time, agent, tgid, start, *fields)

    def _arguments_of(self, arguments: Sequence[str]) -> tuple[tuple[str, ...], list[Found]]:
        joined = "\0".join(arguments).encode("utf-8", "surrogateescape")
        masked, found = self._arguments.mask(joined)
        return tuple(masked.decode("utf-8", "surrogateescape").split("\0")) if found else tuple(
            arguments
        ), found


def _place_of(number: int, field: str) -> int:
    return [f.name for f in BY_NUMBER[number].fields].index(field)


_ARGV, _CONTENT = _place_of(Type.PROCESS, "argv"), _place_of(Type.FILE, "content")


def _note(owner: _Owner, place: int, at: int, size: int, reason: str) -> _Note:
    return (int(Type.REDACTED), *owner, place, at, size, reason)


def _bounded(notes: list[_Note]) -> list[_Note]:
    """At most MAX_NOTED notes, and one that sums up the others."""
    rest = notes[MAX_NOTED:]
    if not rest:
        return notes
    owner: _Owner = rest[0][1:5]
    return [
        *notes[:MAX_NOTED],
        _note(owner, 0, 0, sum(note[7] for note in rest), f"{len(rest)} more secrets"),
    ]
