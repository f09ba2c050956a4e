"""HTTP/2 in the clear, by prior knowledge or after an upgrade (RFC 9113): the client's first request.

Of HPACK (RFC 7541) as much as a first header block needs: the static table, literals, and
Huffman codes of printable letters. A field that is out of this reach ends the reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentwatch.detect.finding import text
from agentwatch.detect.http import split_host
from agentwatch.detect.layer import Context, starts_with

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER: Final = 9
_HEADERS: Final = 1
_PADDED, _PRIORITY = 0x08, 0x20
_MAX_BLOCK: Final = 2048
_FIELDS: Final = {
    ":method": "Method",
    ":authority": "DestinationHostname",
    ":path": "Path",
    "user-agent": "Client",
}

# Names of the static table (RFC 7541, appendix A) from 1 on; values where it has them.
_STATIC: Final = (
    ":authority", ":method=GET", ":method=POST", ":path=/", ":path=/index.html", ":scheme=http",
    ":scheme=https", ":status=200", ":status=204", ":status=206", ":status=304", ":status=400",
    ":status=404", ":status=500", "accept-charset", "accept-encoding=gzip, deflate", "accept-language",
    "accept-ranges", "accept", "access-control-allow-origin", "age", "allow", "authorization",
    "cache-control", "content-disposition", "content-encoding", "content-language", "content-length",
    "content-location", "content-range", "content-type", "cookie", "date", "etag", "expect", "expires",
    "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
    "last-modified", "link", "location", "max-forwards", "proxy-authenticate", "proxy-authorization",
    "range", "referer", "refresh", "retry-after", "server", "set-cookie", "strict-transport-security",
    "transfer-encoding", "user-agent", "vary", "via", "www-authenticate",
)  # fmt: skip

# Letters by the length of their code (appendix B). Codes are canonical: they grow with length, then
# with the letter, so lengths are all there is to know. Longer ones are of no printable letter here.
_LETTERS: Final = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
}


def _codes() -> dict[tuple[int, int], str]:
    codes: dict[tuple[int, int], str] = {}
    code, before = 0, 5
    for length, letters in _LETTERS.items():
        code <<= length - before
        before = length
        for letter in letters:
            codes[length, code] = letter
            code += 1
    return codes


_CODES: Final = _codes()
_LONGEST: Final = max(_LETTERS)


class _Ended(Exception):
    """The block ends here, or goes on with what is not read."""


def huffman(data: bytes) -> str:
    """The text of a Huffman-coded string (RFC 7541, 5.2); raises _Ended for other letters."""
    letters: list[str] = []
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            letter = _CODES.get((length, code))
            if letter is not None:
                letters.append(letter)
                code = length = 0
            elif length > _LONGEST:
                raise _Ended
    return "".join(letters)


class _Block:
    """Reads a header block: fields one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._added: list[tuple[str, str]] = []  # the dynamic table, newest first
        self.ended = False
        """Whether the reading ended before the block."""

    def fields(self) -> dict[str, str]:
        """Fields up to the end or to what is not read; of those with one name the first."""
        found: dict[str, str] = {}
        try:
            while self._at < len(self._data):
                name, value = self._field()
                found.setdefault(name, value)
        except _Ended:
            self.ended = True
        return found

    def _field(self) -> tuple[str, str]:
        first = self._byte()
        if first & 0x80:
            return self._entry(self._number(first, 7))
        if first & 0xE0 == 0x20:  # a new size of the table
            self._number(first, 5)
            return "", ""
        indexed = bool(first & 0x40)
        index = self._number(first, 6 if indexed else 4)
        name = self._entry(index)[0] if index else self._string()
        field = name, self._string()
        if indexed:
            self._added.insert(0, field)
        return field

    def _entry(self, index: int) -> tuple[str, str]:
        if 1 <= index <= len(_STATIC):
            name, _, value = _STATIC[index - 1].partition("=")
            return name, value
        added = index - len(_STATIC) - 1
        if not 0 <= added < len(self._added):
            raise _Ended
        return self._added[added]

    def _byte(self) -> int:
        if self._at >= len(self._data):
            raise _Ended
        self._at += 1
        return self._data[self._at - 1]

    def _number(self, first: int, bits: int) -> int:
        """An integer whose first byte has so many bits of it (5.1)."""
        limit = (1 << bits) - 1
        number = first & limit
        if number < limit:
            return number
        for shift in (0, 7, 14):
            byte = self._byte()
            number += (byte & 0x7F) << shift
            if not byte & 0x80:
                return number
        raise _Ended

    def _string(self) -> str:
        first = self._byte()
        length = self._number(first, 7)
        raw = self._data[self._at : self._at + length]
        if len(raw) < length:
            raise _Ended
        self._at += length
        return huffman(raw) if first & 0x80 else raw.decode("latin-1")


is_http2: Final[Callable[[bytes], bool | None]] = starts_with(PREFACE)
"""Whether a stream starts with a client's preface."""


class Http2:
    """Reports `http2` at once, and again with what the first request says: `Method`,
    `DestinationHostname`, `Path`, `Client`.
    """

    def __init__(self, context: Context) -> None:
        context.emit("http2", "", frozenset(_FIELDS.values()))
        self._context = context
        self._client: int | None = None
        self._bytes = b""
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self._client is None:
            self._client, data = direction, data[len(PREFACE) :]
        if self.finished or direction != self._client:
            return
        if not gap:
            self._bytes += data
        while not self.finished and len(self._bytes) >= _FRAME_HEADER:
            length = int.from_bytes(self._bytes[:3], "big")
            kind, flags, body = self._bytes[3], self._bytes[4], self._bytes[_FRAME_HEADER:]
            if kind == _HEADERS and (len(body) >= min(length, _MAX_BLOCK) or gap):
                block = _Block(_block(flags, body[:length]))
                self._report(block.fields(), block.ended or len(body) < length)
            elif len(body) >= length:
                self._bytes = body[length:]
            else:
                break
        self.finished = self.finished or gap or len(self._bytes) > _MAX_BLOCK

    def _report(self, fields: dict[str, str], cut: bool) -> None:
        self.finished = True
        found = {_FIELDS[name]: text(value) for name, value in fields.items() if name in _FIELDS}
        if "DestinationHostname" in found:
            found["DestinationHostname"] = split_host(found["DestinationHostname"])[0]
        context = self._context if self._client is None else self._context.sent_by(self._client)
        unknown = frozenset(_FIELDS.values()).difference(found) if cut else frozenset()
        context.emit("http2", "", unknown, **found)


def _block(flags: int, body: bytes) -> bytes:
    """The header block in a HEADERS frame's payload."""
    padding = body[0] if flags & _PADDED and body else 0
    begin = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
    return body[begin : max(begin, len(body) - padding)]
