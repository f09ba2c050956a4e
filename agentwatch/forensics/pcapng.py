"""Captured payloads as packets in a pcapng file (draft-ietf-opsawg-pcapng), for Wireshark and its kin.

A trace holds the beginning of what a message carried, with the addresses, the ports and the TCP
sequence number that it had. Link and network headers are made around that; checksums are zero,
and no packet is invented that was not captured: there are no handshakes. Where the capture was
shorter than the packet, the packet's original length says so.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Final

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change
from agentwatch.forensics.story import Life, Listener, Story
from agentwatch.schema.events import SOCKET_BLOCK, Type
from agentwatch.tui.text import printable

_ETHERNET: Final = 1  # LINKTYPE_ETHERNET
_NANOSECONDS: Final = 9
_TCP: Final = 6
_UDP: Final = 17
_PUSH_ACK: Final = 0x18
_INSIDE, _OUTSIDE = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"  # locally administered
_SEQUENCE: Final = len(SOCKET_BLOCK)
_COMMENT, _NAME, _RESOLUTION, _FLAGS = 1, 2, 9, 2
_FLOWS_KEPT: Final = 4096  # whose acknowledgements are known


def file_header(comment: str) -> bytes:
    """The section header block."""
    body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(_COMMENT, comment.encode())
    return _block(0x0A0D0D0A, body)


class Packets(Listener):
    """Writes the captured payloads of stories, each an interface of its own, to one section.

    `interface` is its number in the file, from 0.
    """

    def __init__(self, write: Callable[[bytes], object], interface: int = 0) -> None:
        self._write, self._interface = write, interface
        self._next: dict[tuple[int, bool], int] = {}

    def begin(self, story: Story) -> None:
        self._story = story
        host = story.header.host if story.header else ""
        options = _option(_NAME, f"agentwatch on {printable(host, 64)}".encode())
        options += _option(_RESOLUTION, bytes((_NANOSECONDS,)))
        self._write(_block(1, struct.pack("<HHI", _ETHERNET, 0, 0) + options))

    def moment(self, change: Change, events: list[Sighting], life: Life) -> None:
        flow = change.flow
        if change.type != Type.PAYLOAD or flow is None or flow.protocol not in (_TCP, _UDP):
            return
        sequence, length, *_ = change.fields[_SEQUENCE:]
        length = max(length, len(change.data))
        headers = self._headers(flow, change.incoming, sequence, length)
        self._packet(change, life, headers + change.data, len(headers) + length)

    def _headers(self, flow: Flow, incoming: bool, sequence: int, length: int) -> bytes:
        local, remote = _addresses(flow)
        # A trace made by hand holds ports that no socket has.
        ends = (remote, flow.remote_port & 0xFFFF), (local, flow.local_port & 0xFFFF)
        (source, source_port), (target, target_port) = ends if incoming else ends[::-1]
        if flow.protocol == _TCP:
            acknowledged = self._next.get((flow.cookie, not incoming), 0)
            self._remember(flow.cookie, incoming, sequence + length)
            transport = struct.pack(
                ">HHIIBBHHH", source_port, target_port, sequence, acknowledged, 0x50, _PUSH_ACK, 0xFFFF, 0, 0
            )
        else:
            transport = struct.pack(">HHHH", source_port, target_port, min(8 + length, 0xFFFF), 0)
        network = _network(source, target, flow.protocol, len(transport) + length)
        link = (_INSIDE + _OUTSIDE) if incoming else (_OUTSIDE + _INSIDE)
        return link + (b"\x08\x00" if len(source) == 4 else b"\x86\xdd") + network + transport

    def _remember(self, cookie: int, incoming: bool, following: int) -> None:
        self._next[cookie, incoming] = following & 0xFFFFFFFF
        if len(self._next) > _FLOWS_KEPT:
            del self._next[next(iter(self._next))]

    def _packet(self, change: Change, life: Life, data: bytes, original: int) -> None:
        time = max(0, self._story.wall(change.time))
        process = change.process
        who = f"record {change.seq}: {life.agent}: {process.pid} {process.exe}: {process.command_line}"
        body = struct.pack("<IIIII", self._interface, time >> 32, time & 0xFFFFFFFF, len(data), original)
        body += data + bytes(-len(data) % 4)
        body += _option(_COMMENT, printable(who).encode("utf-8", "backslashreplace"))
        body += _option(_FLAGS, struct.pack("<I", 1 if change.incoming else 2))
        self._write(_block(6, body))


def _addresses(flow: Flow) -> tuple[bytes, bytes]:
    """Local and remote address, both of four bytes or both of sixteen; zeros where one is unknown."""
    pair = [ipaddress.ip_address(text) if text else None for text in (flow.local, flow.remote)]
    if any(isinstance(one, ipaddress.IPv6Address) for one in pair):
        return _mapped(pair[0]), _mapped(pair[1])
    return _packed(pair[0]), _packed(pair[1])


def _packed(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bytes:
    return address.packed if address else bytes(4)


def _mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bytes:
    packed = _packed(address)
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _network(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    """An IP header. A length that does not fit is 0, as segmentation offload leaves it."""
    if len(source) == 16:
        return (
            struct.pack(">IHBB", 6 << 28, length if length <= 0xFFFF else 0, protocol, 64) + source + target
        )
    total = 20 + length
    fields = 0x45, 0, total if total <= 0xFFFF else 0, 0, 0x4000, 64, protocol
    head = struct.pack(">BBHHHBBH", *fields, 0) + source + target
    checksum = _checksum(head)
    return head[:10] + struct.pack(">H", checksum) + head[12:]


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    """A block; its options are closed here."""
    body += struct.pack("<HH", 0, 0)
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size
