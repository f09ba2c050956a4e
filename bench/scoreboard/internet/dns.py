"""A name server that knows every name, at every address (RFC 1035; UDP only).

A names' address comes from the name itself, in 198.18.0.0/15 (RFC 2544, for tests); TXT gets a
text, everything else an empty answer.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import struct
import threading

PORT = 53
A, TXT = 1, 16
_NETWORK = int(ipaddress.IPv4Address("198.18.0.0"))
_PKTINFO = 8  # IP_PKTINFO, <linux/in.h>: to answer from the address that was asked
_HEADER = struct.Struct(">6H")


def address_of(name: str) -> str:
    """The address that a name has here."""
    digest = hashlib.sha256(name.lower().rstrip(".").encode()).digest()
    return str(ipaddress.IPv4Address(_NETWORK + int.from_bytes(digest[:4], "big") % (1 << 17)))


def reply(query: bytes) -> bytes:
    """The answer to a query of one question. Raises ValueError for what is none."""
    try:
        number, flags, questions, *_ = _HEADER.unpack_from(query)
        name, end = _read_name(query, _HEADER.size)
        kind, _ = struct.unpack_from(">HH", query, end)
    except (struct.error, IndexError) as error:
        raise ValueError(f"no query: {error}") from None
    if flags & 0x8000 or questions != 1:
        raise ValueError("no query of one question")
    data = b""
    if kind == A:
        data = socket.inet_aton(address_of(name))
    elif kind == TXT:
        text = hashlib.sha256(name.encode()).hexdigest().encode()
        data = bytes([len(text)]) + text
    answer = struct.pack(">HHHIH", 0xC00C, kind, 1, 60, len(data)) + data if data else b""
    header = _HEADER.pack(number, 0x8180, 1, 1 if data else 0, 0, 0)
    return header + query[_HEADER.size : end + 4] + answer


def _read_name(query: bytes, place: int) -> tuple[str, int]:
    labels = []
    while length := query[place]:
        if length > 63:
            raise ValueError("a compressed name in a question")
        labels.append(query[place + 1 : place + 1 + length].decode("latin-1"))
        place += 1 + length
    return ".".join(labels), place + 1


def start() -> None:
    """Serve in a thread."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IP, _PKTINFO, 1)
    server.bind(("0.0.0.0", PORT))
    threading.Thread(target=_serve, args=(server,), daemon=True).start()


def _serve(server: socket.socket) -> None:
    while True:
        query, control, _, client = server.recvmsg(65535, 64)
        try:
            # struct in_pktinfo: interface, source to use, destination asked
            asked = next(data for _, kind, data in control if kind == _PKTINFO)[8:12]
            info = struct.pack("=i4s4s", 0, asked, b"\0" * 4)
            server.sendmsg([reply(query)], [(socket.IPPROTO_IP, _PKTINFO, info)], 0, client)
        except (ValueError, OSError):
            continue
