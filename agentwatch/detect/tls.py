"""TLS handshakes (RFC 8446, RFC 5246): what client and server say of themselves before they encrypt.

A flow is reported as `tls` with `Stage` `asked` once its ClientHello is known, and again with
`Stage` `answered` and what was chosen once the ServerHello is. Of a hello that was cut, what its
known part says is reported; the fields that the rest may hold are named as cut.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
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
_LOOKED_AT: Final = frozenset((_SERVER_NAME, _SIGNATURE_ALGORITHMS, _ALPN, _SUPPORTED_VERSIONS))
_OFFERED: Final = frozenset(("ServerName", "Alpn", "Ja4"))
_CHOSEN: Final = frozenset(("Alpn", "TlsVersion"))
_TOLD: Final = _OFFERED | _CHOSEN
_NOTHING: Final[frozenset[str]] = frozenset()
_MAX_PROTOCOLS: Final = 16

_VERSIONS: Final = {
    0x0300: ("SSL 3.0", "s3"),
    0x0301: ("1.0", "10"),
    0x0302: ("1.1", "11"),
    0x0303: ("1.2", "12"),
    0x0304: ("1.3", "13"),
}
"""By number: the value of `TlsVersion`, and JA4's two letters."""


class Hello:
    """A ClientHello or ServerHello, GREASE (RFC 8701) left out of every list.

    `versions`: of `supported_versions`. `whole`: nothing of it was cut off.
    """

    __slots__ = (
        "ciphers",
        "extensions",
        "protocols",
        "server_name",
        "signature_algorithms",
        "version",
        "versions",
        "whole",
    )

    def __init__(
        self,
        version: int,
        ciphers: tuple[int, ...],
        extensions: tuple[int, ...] = (),
        protocols: tuple[bytes, ...] = (),
        whole: bool = True,
    ) -> None:
        self.version = version
        self.ciphers = ciphers
        self.extensions = extensions
        self.server_name = ""
        self.protocols = protocols
        self.versions: tuple[int, ...] = ()
        self.signature_algorithms: tuple[int, ...] = ()
        self.whole = whole

    @property
    def highest(self) -> int:
        """The highest version spoken."""
        return max(self.versions) if self.versions else self.version

    @property
    def alpn(self) -> tuple[str, ...]:
        """Names of the protocols inside (RFC 7301)."""
        return tuple([text(name) for name in self.protocols])

    @property
    def version_text(self) -> str:
        """`1.3`, `1.2`, ...; the number where it is none of TLS's; empty where a cut hides it."""
        if not self.whole and not self.versions:
            return ""
        return _VERSIONS.get(self.highest, (f"0x{self.highest:04x}",))[0]


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
    size = len(body)
    if size < _BEFORE_SESSION or body[0] != 3 or body[_BEFORE_SESSION - 1] > 32:
        return None
    at = _BEFORE_SESSION + body[_BEFORE_SESSION - 1]
    if at + 2 > size:
        return None
    length = 2
    if not is_answer:
        length = body[at] << 8 | body[at + 1]
        at += 2
    ciphers = body[at : at + length]
    hello = Hello(body[0] << 8 | body[1], _numbers(ciphers), whole=whole)
    if len(ciphers) < length or not hello.ciphers:
        return None
    at += length
    if at < size:  # compression
        at += 1 if is_answer else 1 + body[at]
    else:
        hello.whole = False
    if at < size:
        _read_extensions(body, at, hello)
    elif at > size:
        hello.whole = False
    return hello


_BEFORE_SESSION: Final = 2 + 32 + 1  # version, random, length of the session's id


def _read_extensions(body: bytes, at: int, hello: Hello) -> None:
    size = len(body)
    if at + 2 > size:
        hello.whole = False
        return
    end = at + 2 + (body[at] << 8 | body[at + 1])
    at += 2
    kinds: list[int] = []
    while at < end:
        begin = at + 4
        if begin > size:
            hello.whole = False
            break
        kind, length = _EXTENSION(body, at)
        at = begin + length
        if at > size:
            hello.whole = False
            break
        if kind & 0x0F0F != 0x0A0A or not _is_grease(kind):
            kinds.append(kind)
        if kind in _LOOKED_AT:
            _read_extension(hello, kind, body[begin:at])
    hello.extensions = tuple(kinds)


_EXTENSION: Final = struct.Struct("!HH").unpack_from  # type, length


def _read_extension(hello: Hello, kind: int, content: bytes) -> None:
    """Takes what is looked at. An extension that is malformed in itself says nothing."""
    if kind == _SERVER_NAME:
        hello.server_name = _host_name(content) or hello.server_name
    elif kind == _ALPN:
        hello.protocols = _names(content[2:])
    elif kind == _SUPPORTED_VERSIONS:  # a server names the one it chose, without a length before it
        hello.versions = _numbers(content if len(content) == 2 else content[1:])
    elif kind == _SIGNATURE_ALGORITHMS:
        hello.signature_algorithms = _numbers(content[2:])


def _host_name(content: bytes) -> str:
    """The name in a server_name extension (RFC 6066, section 3): a list of counted, typed names."""
    if len(content) < 5 or content[2] != 0:
        return ""
    end = 5 + (content[3] << 8 | content[4])
    return text(content[5:end]).lower().rstrip(".") if end <= len(content) else ""


def _names(data: bytes) -> tuple[bytes, ...]:
    """Counted names one after another, as far as they are whole."""
    names: list[bytes] = []
    at = 0
    while at < len(data) and len(names) < _MAX_PROTOCOLS:
        begin = at + 1
        at = begin + data[at]
        if at > len(data):
            break
        names.append(data[begin:at])
    return tuple(names)


def _numbers(data: bytes) -> tuple[int, ...]:
    return _known_numbers(data) if len(data) <= _SHORT else _read_numbers(data)


def _read_numbers(data: bytes) -> tuple[int, ...]:
    numbers = struct.unpack_from(f"!{len(data) // 2}H", data)
    return tuple([number for number in numbers if not _is_grease(number)])


# Programs offer the same lists again and again.
_KNOWN: Final = 256
_SHORT: Final = 512
_known_numbers = lru_cache(maxsize=_KNOWN)(_read_numbers)


def _is_grease(number: int) -> bool:
    return number & 0x0F0F == 0x0A0A and number >> 8 == number & 0xFF


def ja4(hello: Hello, transport: str) -> str:
    """The client's fingerprint as FoxIO publishes it (JA4.md). `transport`: `t` TLS over TCP, `q` QUIC."""
    version = _VERSIONS.get(hello.highest, ("", "00"))[1]
    name = "d" if _SERVER_NAME in hello.extensions else "i"
    counts = f"{min(len(hello.ciphers), 99):02}{min(len(hello.extensions), 99):02}"
    known = len(hello.ciphers) + len(hello.extensions) + len(hello.signature_algorithms) <= _SHORT
    digests = (_known_digests if known else _digests)(
        hello.ciphers, hello.extensions, hello.signature_algorithms
    )
    return f"{transport}{version}{name}{counts}{_ja4_alpn(hello.protocols)}_{digests}"


def _digests(
    ciphers: tuple[int, ...], extensions: tuple[int, ...], signature_algorithms: tuple[int, ...]
) -> str:
    """The two hashes that a fingerprint ends with."""
    kinds = [kind for kind in extensions if kind not in (_SERVER_NAME, _ALPN)]
    words = ",".join(sorted(_hex(kinds)))
    if signature_algorithms:
        words += "_" + ",".join(_hex(signature_algorithms))
    return f"{_digest(','.join(sorted(_hex(ciphers))))}_{_digest(words) if kinds else _NO_DIGEST}"


_known_digests = lru_cache(maxsize=_KNOWN)(_digests)
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
    alpn = hello.alpn
    fields: dict[str, Value] = {
        "ServerName": hello.server_name,
        "Alpn": alpn or None,
        "Ja4": ja4(hello, "q" if protocol == "quic" else "t") if hello.whole else None,
    }
    offered = {**fields, "TlsVersion": hello.version_text, "Stage": "asked"}
    cut = _unknown(hello, offered, _TOLD)
    context.emit(protocol, "", cut, **offered)
    for name in alpn:
        if name in TOOL_BY_ALPN:
            emit_tool(context, TOOL_BY_ALPN[name], f"ALPN {name}", ServerName=hello.server_name)
    return fields, cut & _OFFERED


class _Side:
    """One direction: its records' handshake bytes, up to the end of the first message."""

    __slots__ = ("_header", "_remaining", "message", "over")

    def __init__(self) -> None:
        self.message = b""
        self.over = False
        self._header = b""
        self._remaining = 0

    @property
    def whole(self) -> bool:
        """Whether the message is complete."""
        message = self.message
        return len(message) >= 4 and len(message) >= 4 + (message[1] << 16 | message[2] << 8 | message[3])

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
                self.over = len(self.message) >= MAX_HELLO or self.whole
            else:
                part = data[at : at + _RECORD_HEADER - len(self._header)]
                self._header += part
                at += len(part)
                if len(self._header) == _RECORD_HEADER:
                    self._begin_record()
        return self.over

    def _begin_record(self) -> None:
        header = self._header
        kind, major, length = header[0], header[1], header[3] << 8 | header[4]
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
        self.finished = self._answered or (side.over and other.over)

    def _read(self, direction: int, side: _Side) -> None:
        message, whole = side.message, side.whole
        end = 4 + int.from_bytes(message[1:4], "big") if whole else len(message)
        kind, body = message[:1], message[4:end]
        if kind == b"\x01" and (hello := parse_client_hello(body, whole)) is not None:
            self._context = self._context.sent_by(direction)
            self._asked, self._cut = asked(self._context, "tls", hello)
        elif kind == b"\x01" and not whole:
            self._context.sent_by(direction).emit("tls", "", _TOLD, Stage="asked")
        elif kind == b"\x02" and (hello := parse_server_hello(body, whole)) is not None:
            self._answered = True
            self._answer(direction, hello)

    def _answer(self, direction: int, hello: Hello) -> None:
        fields = dict(self._asked)
        fields["TlsVersion"] = hello.version_text
        fields["Cipher"] = f"{hello.ciphers[0]:04x}"
        cut = self._cut
        if hello.protocols:
            fields["Alpn"] = hello.alpn
            cut -= {"Alpn"}
        cut |= _unknown(hello, fields, _CHOSEN)
        self._context.sent_by(1 - direction).emit("tls", "", cut, Stage="answered", **fields)


def _unknown(hello: Hello, fields: Mapping[str, Value], names: frozenset[str]) -> frozenset[str]:
    """Those of the names that a cut may hide: which have no value, though the whole might give one."""
    return _NOTHING if hello.whole else names - {name for name in names if fields.get(name)}
