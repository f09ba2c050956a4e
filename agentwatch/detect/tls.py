"""TLS handshakes (RFC 8446, RFC 5246): what client and server say of themselves before they encrypt.

A flow is reported as `tls` with `Stage` `asked` once its ClientHello is known, and again with
`Stage` `answered` and what was chosen once the ServerHello is. Of a hello that was cut, what its
known part says is reported; the fields that the rest may hold are named as cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentwatch.detect.finding import text
from agentwatch.detect.layer import Context
from agentwatch.detect.tunnel_tools import TOOL_BY_ALPN, emit_tool
from agentwatch.event import Value

MAX_HELLO: Final = 8192
"""Bytes kept of a hello; of longer ones the beginning counts."""
CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2

_RECORD_HEADER: Final = 5
_MAX_RECORD: Final = 16384 + 256
_HANDSHAKE: Final = 22

_SERVER_NAME, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS = 0x0000, 0x000D, 0x0010, 0x002B
_OFFERED: Final = frozenset(("ServerName", "Alpn", "Ja4"))
_CHOSEN: Final = frozenset(("Alpn", "TlsVersion"))
_MAX_PROTOCOLS: Final = 16

_VERSIONS: Final = {
    0x0300: ("SSL 3.0", "s3"),
    0x0301: ("1.0", "10"),
    0x0302: ("1.1", "11"),
    0x0303: ("1.2", "12"),
    0x0304: ("1.3", "13"),
}
"""By number: the value of `TlsVersion`, and JA4's two letters."""


@dataclass(slots=True)
class Hello:
    """A ClientHello or ServerHello, GREASE (RFC 8701) left out of every list.

    `versions`: of `supported_versions`. `whole`: nothing of it was cut off.
    """

    version: int = 0
    ciphers: tuple[int, ...] = ()
    extensions: tuple[int, ...] = ()
    server_name: str = ""
    protocols: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    signature_algorithms: tuple[int, ...] = ()
    whole: bool = True

    @property
    def highest(self) -> int:
        """The highest version spoken."""
        return max(self.versions, default=self.version)

    @property
    def alpn(self) -> tuple[str, ...]:
        """Names of the protocols inside (RFC 7301)."""
        return tuple(text(name) for name in self.protocols)

    @property
    def version_text(self) -> str:
        """`1.3`, `1.2`, ...; the number where it is none of TLS's; empty where a cut hides it."""
        if not self.whole and not self.versions:
            return ""
        return _VERSIONS.get(self.highest, (f"0x{self.highest:04x}",))[0]


class _Cut(Exception):
    """The bytes end here."""


class _Bytes:
    """Reads numbers and counted vectors (RFC 8446, section 3) from the beginning; raises _Cut."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            raise _Cut
        self.at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def is_tls(head: bytes) -> bool | None:
    """Whether a stream starts with a record that holds a hello; None if more bytes are needed to tell."""
    if not head.startswith(b"\x16\x03"[: len(head)]):
        return False
    if len(head) <= _RECORD_HEADER:
        return None
    length = int.from_bytes(head[3:5], "big")
    return head[2] <= 4 and 0 < length <= _MAX_RECORD and head[5] in (CLIENT_HELLO, _SERVER_HELLO)


def parse_client_hello(body: bytes, whole: bool) -> Hello | None:
    """Reads a ClientHello without its handshake header; None if it is none.

    `whole`: `body` is all of it. What a cut one says before the cut is known.
    """
    return _parse(body, whole, is_answer=False)


def parse_server_hello(body: bytes, whole: bool) -> Hello | None:
    """Reads a ServerHello or HelloRetryRequest in the same way."""
    return _parse(body, whole, is_answer=True)


def _parse(body: bytes, whole: bool, *, is_answer: bool) -> Hello | None:
    """An answer has one cipher suite and one compression method where a question has vectors of them."""
    reader, hello = _Bytes(body), Hello(whole=whole)
    try:
        hello.version = reader.number(2)
        if hello.version >> 8 != 3:
            return None
        reader.take(32)
        if len(reader.vector(1)) > 32:
            return None
        hello.ciphers = (reader.number(2),) if is_answer else _numbers(reader.vector(2))
        reader.take(1 if is_answer else reader.number(1))
        if reader.at < len(body):
            _read_extensions(reader, hello)
    except _Cut:
        hello.whole = False
    return hello if hello.ciphers else None


def _read_extensions(reader: _Bytes, hello: Hello) -> None:
    end = reader.number(2) + reader.at
    kinds: list[int] = []
    try:
        while reader.at < end:
            kind = reader.number(2)
            content = reader.vector(2)
            if not _is_grease(kind):
                kinds.append(kind)
            _read_extension(hello, kind, content)
    finally:
        hello.extensions = tuple(kinds)


def _read_extension(hello: Hello, kind: int, content: bytes) -> None:
    """Takes what is looked at. An extension that is malformed in itself says nothing."""
    if kind == _SERVER_NAME:
        hello.server_name = _host_name(content) or hello.server_name
    elif kind == _ALPN:
        hello.protocols = tuple(_counted(content[2:], 1))[:_MAX_PROTOCOLS]
    elif kind == _SUPPORTED_VERSIONS:  # a server names the one it chose, without a length before it
        hello.versions = _numbers(content if len(content) == 2 else content[1:])
    elif kind == _SIGNATURE_ALGORITHMS:
        hello.signature_algorithms = _numbers(content[2:])


def _host_name(content: bytes) -> str:
    """The name in a server_name extension (RFC 6066, section 3): a list of counted, typed names."""
    if content[2:3] != b"\0":
        return ""
    for name in _counted(content[3:], 2):
        return text(name).lower().rstrip(".")
    return ""


def _counted(data: bytes, size: int) -> Iterator[bytes]:
    """Vectors one after another, each with a length of `size` bytes, as far as they are whole."""
    reader = _Bytes(data)
    try:
        while reader.at < len(data):
            yield reader.vector(size)
    except _Cut:
        return


def _numbers(data: bytes) -> tuple[int, ...]:
    numbers = (data[at] << 8 | data[at + 1] for at in range(0, len(data) - 1, 2))
    return tuple(number for number in numbers if not _is_grease(number))


def _is_grease(number: int) -> bool:
    return number & 0x0F0F == 0x0A0A and number >> 8 == number & 0xFF


def ja4(hello: Hello, transport: str) -> str:
    """The client's fingerprint as FoxIO publishes it (JA4.md). `transport`: `t` TLS over TCP, `q` QUIC."""
    version = _VERSIONS.get(hello.highest, ("", "00"))[1]
    name = "d" if _SERVER_NAME in hello.extensions else "i"
    counts = f"{min(len(hello.ciphers), 99):02}{min(len(hello.extensions), 99):02}"
    kinds = [kind for kind in hello.extensions if kind not in (_SERVER_NAME, _ALPN)]
    extensions = ",".join(sorted(_hex(kinds)))
    if hello.signature_algorithms:
        extensions += "_" + ",".join(_hex(hello.signature_algorithms))
    ciphers = _digest(",".join(sorted(_hex(hello.ciphers))))
    opening = f"{transport}{version}{name}{counts}{_ja4_alpn(hello.protocols)}"
    return f"{opening}_{ciphers}_{_digest(extensions) if kinds else _NO_DIGEST}"


_NO_DIGEST: Final = "0" * 12


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:12] if words else _NO_DIGEST


def _hex(numbers: Sequence[int]) -> list[str]:
    return [f"{number:04x}" for number in numbers]


def _ja4_alpn(protocols: Sequence[bytes]) -> str:
    first = protocols[0] if protocols else b""
    if not first:
        return "00"
    ends = first[:1] + first[-1:]
    if ends.isalnum():
        return ends.decode()
    return first.hex()[0] + first.hex()[-1]


def asked(context: Context, protocol: str, hello: Hello) -> tuple[dict[str, Value], frozenset[str]]:
    """Reports a ClientHello as `protocol` (tls, quic), and the tunnel tool that it names, if it does.

    Returns the fields, and which of them a cut hides, for what is reported of the answer.
    """
    fields: dict[str, Value] = {
        "ServerName": hello.server_name,
        "Alpn": hello.alpn or None,
        "Ja4": ja4(hello, "q" if protocol == "quic" else "t") if hello.whole else None,
    }
    offered = {**fields, "TlsVersion": hello.version_text, "Stage": "asked"}
    cut = _unknown(hello, offered, _OFFERED | _CHOSEN)
    context.emit(protocol, "", cut, **offered)
    for name in hello.alpn:
        if name in TOOL_BY_ALPN:
            emit_tool(context, TOOL_BY_ALPN[name], f"ALPN {name}", ServerName=hello.server_name)
    return fields, cut & _OFFERED


class _Side:
    """One direction: its records' handshake bytes, up to the end of the first message."""

    def __init__(self) -> None:
        self.message = b""
        self.over = False
        self._header = b""
        self._remaining = 0

    @property
    def whole(self) -> bool:
        """Whether the message is complete."""
        return len(self.message) >= 4 and len(self.message) >= 4 + int.from_bytes(self.message[1:4], "big")

    def feed(self, data: bytes, gap: bool, start: bool) -> bool:
        """Takes bytes; whether the message is now known as far as it will be."""
        if self.over:
            return False
        if start and not self.message:  # whatever came before was no part of the handshake
            self._header, self._remaining = b"", 0
        self.over = gap  # what lies behind the gap may begin anywhere
        at = 0
        while at < len(data) and not self.over:
            if self._remaining:
                part = data[at : at + self._remaining]
                self._remaining -= len(part)
                self.message += part
                at += len(part)
                self.over = self.whole or len(self.message) >= MAX_HELLO
            else:
                self._header += data[at : at + 1]
                at += 1
                if len(self._header) == _RECORD_HEADER:
                    self._begin_record()
        return self.over

    def _begin_record(self) -> None:
        kind, major, length = self._header[0], self._header[1], int.from_bytes(self._header[3:], "big")
        self._header, self._remaining = b"", length
        self.over = kind != _HANDSHAKE or major != 3 or not 0 < length <= _MAX_RECORD


class Tls:
    """The layer of a handshake, up to both hellos."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sides = (_Side(), _Side())
        self._asked: dict[str, Value] = {}
        self._cut = _OFFERED  # until a ClientHello says what it offers
        self._answered = False
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        side, other = self._sides[direction], self._sides[1 - direction]
        known = side.feed(data, gap, start)
        if (known or side.message) and other.message and not other.over:
            other.over = True  # it has an answer: the rest of it was lost
            self._read(1 - direction, other)
        if known:
            self._read(direction, side)
        self.finished = self._answered or all(one.over for one in self._sides)

    def _read(self, direction: int, side: _Side) -> None:
        kind, body, whole = side.message[:1], side.message[4:], side.whole
        if whole:
            body = body[: int.from_bytes(side.message[1:4], "big")]
        if kind == b"\x01" and (hello := parse_client_hello(body, whole)) is not None:
            self._context = self._context.sent_by(direction)
            self._asked, self._cut = asked(self._context, "tls", hello)
        elif kind == b"\x01" and not whole:
            self._context.sent_by(direction).emit("tls", "", _OFFERED | _CHOSEN, Stage="asked")
        elif kind == b"\x02" and (hello := parse_server_hello(body, whole)) is not None:
            self._answered = True
            self._answer(direction, hello)

    def _answer(self, direction: int, hello: Hello) -> None:
        fields = self._asked | {"TlsVersion": hello.version_text, "Cipher": f"{hello.ciphers[0]:04x}"}
        if hello.alpn:
            fields["Alpn"] = hello.alpn
        cut = self._cut - {"Alpn"} if hello.alpn else self._cut
        cut |= _unknown(hello, fields, _CHOSEN)
        self._context.sent_by(1 - direction).emit("tls", "", cut, Stage="answered", **fields)


def _unknown(hello: Hello, fields: Mapping[str, Value], names: frozenset[str]) -> frozenset[str]:
    """Those of the names that a cut may hide: which have no value, though the whole might give one."""
    return frozenset() if hello.whole else names - {name for name in names if fields.get(name)}
