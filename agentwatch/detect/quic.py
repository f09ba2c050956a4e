"""QUIC versions 1 and 2 (RFC 9000, 9001, 9369): the ClientHello in a client's Initial packets.

Their keys follow from a connection id in the clear, so anyone may read them; and only a real
Initial passes their authentication, so nothing else is taken for one.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agentwatch.detect.layer import Context
from agentwatch.detect.tls import CLIENT_HELLO, MAX_HELLO, asked, parse_client_hello

FIRST_BYTES: Final[bytes] = bytes(range(0xC0, 0x100))
"""Long headers."""

_MAX_PACKETS: Final = 16
"""Initial packets of a flow that are opened; later ones are not looked at."""
_MAX_CONNECTIONS: Final = 4
"""Connections of one socket whose handshake is under way; the oldest is let go."""
_MAX_FRAGMENTS: Final = 128
_MAX_ID: Final = 20
_SAMPLE: Final = 16
_TAG: Final = 16


class Version(NamedTuple):
    """What differs between versions: number of the type Initial, salt, prefix of the keys' labels."""

    initial: int
    salt: bytes
    prefix: str


VERSIONS: Final = {
    0x00000001: Version(0, bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), "quic"),
    0x6B3343CF: Version(1, bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), "quicv2"),
}


class Keys(NamedTuple):
    """Of the packets that a client protects (RFC 9001, 5.1)."""

    key: bytes
    iv: bytes
    header: bytes


def client_keys(version: Version, connection_id: bytes) -> Keys:
    """The keys of a client's Initial packets, from the id that its first one is sent to."""
    initial = hmac.digest(version.salt, connection_id, "sha256")
    secret = _expand(initial, "client in", 32)
    sizes = (("key", 16), ("iv", 12), ("hp", 16))
    return Keys(*(_expand(secret, f"{version.prefix} {name}", size) for name, size in sizes))


def _expand(secret: bytes, label: str, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446, 7.1) without context, for at most one block of SHA-256."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
    return hmac.new(secret, info + b"\1", hashlib.sha256).digest()[:size]


class Packet(NamedTuple):
    """An Initial packet, still protected. `protected` begins `number_at` bytes into `data`."""

    version: Version
    to: bytes
    data: bytes
    number_at: int


class _Malformed(Exception):
    """This is no long header, or it ends early."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and the position after it (RFC 9000, 16)."""
    if at >= len(data):
        raise _Malformed
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise _Malformed
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


def _counted(data: bytes, at: int) -> tuple[bytes, int]:
    """A connection id and the position after it."""
    if at >= len(data) or data[at] > _MAX_ID or at + 1 + data[at] > len(data):
        raise _Malformed
    end = at + 1 + data[at]
    return data[at + 1 : end], end


def initials(datagram: bytes) -> list[Packet]:
    """The Initial packets of a datagram, which may hold others behind them (RFC 9000, 12.2)."""
    packets: list[Packet] = []
    at = 0
    try:
        while at < len(datagram) and datagram[at] & 0xC0 == 0xC0:
            version = VERSIONS.get(int.from_bytes(datagram[at + 1 : at + 5], "big"))
            if version is None:
                break
            to, position = _counted(datagram, at + 5)
            _, position = _counted(datagram, position)
            kind = (datagram[at] >> 4 & 3) - version.initial & 3
            if kind == 3:  # Retry
                break
            if kind == 0:
                token, position = _varint(datagram, position)
                position += token
            length, position = _varint(datagram, position)
            if position + length > len(datagram):
                break
            if kind == 0:
                packets.append(Packet(version, to, datagram[at : position + length], position - at))
            at = position + length
    except _Malformed:
        pass
    return packets


def is_quic(datagram: bytes) -> bool:
    """Whether a datagram begins with an Initial packet."""
    return bool(initials(datagram))


def unprotect(packet: Packet, keys: Keys) -> bytes | None:
    """The frames of a packet; None if these keys did not protect it."""
    # Only who sees QUIC pays for this library.
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    data, at = packet.data, packet.number_at
    sample = data[at + 4 : at + 4 + _SAMPLE]
    if len(sample) < _SAMPLE or len(data) < at + 4 + _TAG:
        return None
    encryptor = Cipher(algorithms.AES(keys.header), modes.ECB()).encryptor()
    mask = encryptor.update(sample)
    first = data[0] ^ mask[0] & 0x0F
    size = (first & 3) + 1
    number = bytes(byte ^ key for byte, key in zip(data[at : at + size], mask[1:], strict=False))
    header = bytes([first]) + data[1:at] + number
    nonce = int.from_bytes(keys.iv, "big") ^ int.from_bytes(number, "big")
    try:
        return AESGCM(keys.key).decrypt(nonce.to_bytes(12, "big"), data[at + size :], header)
    except InvalidTag:
        return None


def crypto_frames(frames: bytes) -> list[tuple[int, bytes]]:
    """Offset and data of the CRYPTO frames among those that an Initial may hold (RFC 9000, 12.4)."""
    found: list[tuple[int, bytes]] = []
    at = 0
    try:
        while at < len(frames):
            kind, at = frames[at], at + 1
            if kind == 6:
                offset, at = _varint(frames, at)
                length, at = _varint(frames, at)
                found.append((offset, frames[at : at + length]))
                at += length
            elif kind in (2, 3):
                at = _skip_ack(frames, at, kind == 3)
            elif kind > 1:
                break
    except _Malformed:
        pass
    return found


def _skip_ack(frames: bytes, at: int, counts: bool) -> int:
    _, at = _varint(frames, at)
    _, at = _varint(frames, at)
    ranges, at = _varint(frames, at)
    for _ in range(1 + 2 * ranges + (3 if counts else 0)):
        _, at = _varint(frames, at)
    return at


@dataclass(slots=True)
class _Handshake:
    """A client's connection: its keys, its CRYPTO stream so far, and whether it was reported."""

    keys: Keys
    fragments: dict[int, bytes] = field(default_factory=dict)
    reported: bool = False

    def add(self, offset: int, data: bytes) -> None:
        if len(self.fragments) < _MAX_FRAGMENTS and offset + len(data) <= MAX_HELLO:
            self.fragments.setdefault(offset, data)

    def stream(self) -> bytes:
        """What is known from the beginning on."""
        known = b""
        for offset in sorted(self.fragments):
            if offset > len(known):
                break
            known += self.fragments[offset][len(known) - offset :]
        return known


class Quic:
    """The layer of the datagrams of a socket, up to the ClientHellos."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._handshakes: dict[bytes, _Handshake] = {}
        self._client: int | None = None
        self._opened = 0
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        if self.finished or not data:
            return
        if self._client is not None and direction != self._client:
            self._report_cut()  # an answer: what was lost of the hello will not come
            return
        for packet in initials(data):
            self._opened += 1
            self._read(direction, packet)
        self.finished = self._opened >= _MAX_PACKETS

    def _read(self, direction: int, packet: Packet) -> None:
        handshake = self._handshakes.get(packet.to)
        fresh = handshake or _Handshake(client_keys(packet.version, packet.to))
        frames = unprotect(packet, fresh.keys)
        if frames is None:
            return
        self._client = direction
        if handshake is None:
            if len(self._handshakes) >= _MAX_CONNECTIONS:
                del self._handshakes[next(iter(self._handshakes))]
            self._handshakes[packet.to] = fresh
        for offset, data in crypto_frames(frames):
            fresh.add(offset, data)
        stream = fresh.stream()
        length = int.from_bytes(stream[1:4], "big")
        if len(stream) >= 4 and len(stream) >= 4 + length:
            self._report(fresh, stream[: 4 + length], True)

    def _report_cut(self) -> None:
        for handshake in self._handshakes.values():
            self._report(handshake, handshake.stream(), False)

    def _report(self, handshake: _Handshake, message: bytes, whole: bool) -> None:
        if handshake.reported or message[:1] != bytes([CLIENT_HELLO]):
            return
        handshake.reported = True
        hello = parse_client_hello(message[4:], whole)
        if hello is not None and self._client is not None:
            asked(self._context.sent_by(self._client), "quic", hello)
