"""Hellos of TLS for tests: of OpenSSL as Python drives it, and written by hand."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def openssl_client(name: str | None, alpn: Sequence[str] = ()) -> bytes:
    """The record that a client of this machine's OpenSSL opens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs an answer")


@cache
def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for `localhost` and its key, as files in a folder."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def openssl_exchange(
    folder: Path, name: str, alpn: Sequence[str], version: ssl.TLSVersion
) -> tuple[bytes, bytes]:
    """What client and server say up to the server's first flight."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(*certificate(folder))
    server_context.maximum_version = version
    server_context.set_alpn_protocols(list(alpn))
    asked = openssl_client(name, alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(asked)
    server = server_context.wrap_bio(incoming, outgoing, server_side=True)
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        return asked, outgoing.read()
    raise AssertionError("a handshake needs an answer")


def vector(data: bytes, size: int = 2) -> bytes:
    """Bytes with their length before them."""
    return len(data).to_bytes(size, "big") + data


def numbers(values: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + vector(content)


def server_name(name: bytes) -> bytes:
    return extension(0, vector(b"\0" + vector(name)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(b"".join(vector(name, 1) for name in names)))


def client_hello(ciphers: Sequence[int], extensions: Sequence[bytes], version: int = 0x0303) -> bytes:
    """A ClientHello with its handshake header."""
    body = version.to_bytes(2, "big") + bytes(32) + vector(bytes(32), 1) + vector(numbers(ciphers))
    body += vector(b"\0", 1) + vector(b"".join(extensions))
    return b"\x01" + vector(body, 3)


def server_hello(cipher: int, extensions: Sequence[bytes]) -> bytes:
    """A ServerHello with its handshake header."""
    body = b"\x03\x03" + bytes(32) + vector(b"", 1) + cipher.to_bytes(2, "big") + b"\0"
    return b"\x02" + vector(body + vector(b"".join(extensions)), 3)


def records(message: bytes, size: int = 16384) -> bytes:
    """A handshake message in records of at most `size` bytes."""
    parts = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + vector(part) for part in parts)


GREASE = 0x4A4A
CHROME = client_hello(
    [GREASE, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9, 0xCCA8, 0xC013, 0xC014, 0x009C,
     0x009D, 0x002F, 0x0035],
    [extension(GREASE, b""), extension(0x4469, b"\0\3\2h2"), extension(0x0033, bytes(1300)),
     extension(0x001B, b"\2\0\2"), extension(0x000A, b"\0\2\0\x1d"), extension(0x0017, b""),
     extension(0xFF01, b"\0"), extension(0x002D, b"\1\1"),
     extension(0x000D, vector(numbers([0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]))),
     extension(0x0012, b""), extension(0x0005, b"\1\0\0\0\0"), alpn(b"h2", b"http/1.1"),
     extension(0x002B, vector(numbers([GREASE, 0x0304, 0x0303]), 1)), extension(0x000B, b"\1\0"),
     extension(0x0023, b""), server_name(b"Late.Example."), extension(0x0015, bytes(20))],
)  # fmt: skip
"""The example of FoxIO's JA4.md, its extensions shuffled, its key share post-quantum, its name late."""
CHROME_JA4 = "t13d1516h2_8daaf6152771_e5627efa2ab1"
