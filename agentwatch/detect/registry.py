"""The protocols that the first bytes of a stream tell apart. A new one is a line in this table.

A line names the bytes that a stream of this protocol can start with, a function that looks at
the first bytes of one direction (at most HEAD_LIMIT) and says yes, no, or None for "more bytes,
please", and what makes the layer once it said yes. The first line that says yes wins, once all
before it have said no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from agentwatch.detect import (
    bore,
    dns,
    frp,
    gsocket,
    http,
    http2,
    proxy_protocol,
    quic,
    rathole,
    socks,
    ssh,
    stratum,
    stratum_v2,
    tls,
    websocket,
    wireguard,
    yamux,
)
from agentwatch.detect.layer import Context, Layer, Opaque, starts_with

HEAD_LIMIT: Final = 1024


class Entry(NamedTuple):
    """One protocol: see the module."""

    first_bytes: bytes
    recognise: Callable[[bytes], bool | None]
    layer: Callable[[Context], Layer]


def _opaque(protocol: str) -> Callable[[Context], Layer]:
    return lambda context: Opaque(context, protocol)


def _is_json(head: bytes) -> bool | None:
    """JSON messages may follow blanks and a byte order mark."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return text[:1] in (b"{", b"[") if text else None


PROTOCOLS: Final[Sequence[Entry]] = (
    Entry(b"\x16", tls.is_tls, tls.Tls),
    Entry(b"P", http2.is_http2, http2.Http2),
    Entry(b"GPHDOTC", http.is_http, http.Http),
    Entry(b"C", starts_with(b"Content-Length:", b"Content-Type:"), _opaque("lsp")),
    Entry(b"S", ssh.is_ssh, ssh.Ssh),
    Entry(b"{", bore.is_bore, bore.Bore),
    Entry(b"{[ \t\r\n\xef", _is_json, stratum.JsonMessages),
    Entry(b"sj", stratum.is_xatum, stratum.Xatum),
    Entry(b"\x05", socks.is_socks5, socks.Socks),
    Entry(b"\x04", socks.is_socks4, socks.Socks),
    Entry(b"\x81\x82\x01\x02", websocket.is_websocket, websocket.WebSocket),
    Entry(b"\x00", stratum_v2.is_setup_connection, stratum_v2.SetupConnection),
    Entry(b"\x00", stratum_v2.is_setup_success, stratum_v2.SetupSuccess),
    Entry(b"\x00", yamux.is_yamux, yamux.Yamux),
    Entry(b"\x17", frp.is_headed_tls, frp.HeadedTls),
    Entry(b"owv", frp.is_message, frp.Message),
    Entry(b"\x01\x02", gsocket.is_gsocket, gsocket.Gsocket),
    Entry(b"\x00\x01\x02", dns.is_stream, dns.DnsStream),
    Entry(b"P\r", proxy_protocol.is_header, proxy_protocol.ProxyHeader),
)

DATAGRAMS: Final[Sequence[Entry]] = (
    Entry(quic.FIRST_BYTES, quic.is_quic, quic.Quic),
    Entry(b"\x01\x02", wireguard.is_wireguard, wireguard.Wireguard),
    Entry(b"T", wireguard.is_disco, wireguard.Disco),
)
"""The same for datagrams, each of which is judged by itself."""


class Unrecognised:
    """Gets what no line recognised: handshakes told by the shape of both sides' messages."""

    def __init__(self, context: Context) -> None:
        self._shapes: list[Layer] = [stratum_v2.NoiseHandshake(context), rathole.Rathole(context)]
        self.finished = False

    def feed(self, direction: int, data: bytes, gap: bool, start: bool) -> None:
        for shape in self._shapes:
            shape.feed(direction, data, gap, start)
        self._shapes = [shape for shape in self._shapes if not shape.finished]
        self.finished = not self._shapes


def _by_first_byte(entries: Sequence[Entry]) -> tuple[tuple[Entry, ...], ...]:
    return tuple(tuple(entry for entry in entries if byte in entry.first_bytes) for byte in range(256))


_BY_FIRST_BYTE: Final = _by_first_byte(PROTOCOLS)
_DATAGRAMS_BY_FIRST_BYTE: Final = _by_first_byte(DATAGRAMS)


def recognise(head: bytes, more: bool = True) -> tuple[Entry | None, bool]:
    """The protocol of a stream that starts with `head` (not empty), and whether that may yet change.

    `more`: further bytes may come, so a line that is undecided holds up those after it.
    """
    patient = more and len(head) < HEAD_LIMIT
    for entry in _BY_FIRST_BYTE[head[0]]:
        answer = entry.recognise(head)
        if answer:
            return entry, False
        if answer is None and patient:
            return None, True
    return None, False


def recognise_datagram(data: bytes) -> Entry | None:
    """The protocol of a datagram (not empty)."""
    for entry in _DATAGRAMS_BY_FIRST_BYTE[data[0]]:
        if entry.recognise(data):
            return entry
    return None
