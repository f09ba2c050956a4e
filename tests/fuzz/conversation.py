"""Coverage-guided fuzzing of the protocol detectors: `python -m tests.fuzz.conversation SECONDS [SEED]`.

An input is a flow: a byte for who connected and over what, then records of a direction and cut,
a length, and so many bytes. Found is whatever is raised, and more memory than `MEMORY_MIB`.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

from agentwatch.detect import dns
from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT
from agentwatch.detect.http2 import PREFACE
from tests.detect import (
    hellos,
    test_dns,
    test_frp,
    test_gsocket,
    test_http2,
    test_rathole,
    test_ssh,
    test_wireguard,
    test_yamux,
)
from tests.detect.initials import crypto, initial
from tests.fuzz.lines import fuzz

MEMORY_MIB = 1024
_INITIATED = (True, False, None)
_TRANSPORTS = ("tcp", "udp", "unix")
_TCP, _UDP = 0, 1

Said = tuple[int, bytes]


def packed(transport: int, *said: Said) -> bytes:
    """The input for a flow in which this is said: (direction, bytes) one after another."""
    parts = (bytes([direction]) + len(data).to_bytes(2, "big") + data for direction, data in said)
    return bytes([3 * transport]) + b"".join(parts)


def _records(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Direction, bytes, and how many more were not captured."""
    at = 1
    while at + 3 <= len(data):
        flags, length = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        yield flags & 1, data[at + 3 : at + 3 + length], 100 if flags & 0x80 else 0
        at += 3 + length


def one_input(data: bytes) -> None:
    choice = data[0] if data else 0
    conversation = Conversation(_INITIATED[choice % 3], _TRANSPORTS[choice // 3 % 3])
    sequence, messages, last = [0, 0], [0, 0], -1
    for direction, part, cut in _records(data):
        if direction != last or choice // 3 % 3 == 1:
            messages[direction] += 1
            last = direction
        conversation.segment(direction, sequence[direction], part, len(part) + cut, messages[direction], 0)
        sequence[direction] += len(part) + cut
        dns.is_question(part)


def seeds() -> list[bytes]:
    """A conversation of each protocol."""
    return [*_handshakes(), *_tools(), *_proxies()]


def _handshakes() -> list[bytes]:
    server = hellos.records(hellos.server_hello(0x1301, [hellos.alpn(b"h2")]))
    halves = [initial(crypto(at, hellos.CHROME[at : at + 1100])) for at in (0, 1100)]
    request = test_http2.frame(1, 4, test_http2.CODED)
    ssh = [banner + test_ssh.kexinit() for banner in (b"SSH-2.0-c\r\n", b"SSH-2.0-s\r\n")]
    return [
        packed(_TCP, (OUT, hellos.records(hellos.CHROME, 300)), (IN, server)),
        packed(_UDP, (OUT, halves[0]), (OUT, halves[1])),
        packed(_TCP, (OUT, PREFACE + test_http2.SETTINGS + request)),
        packed(_TCP, (OUT, ssh[0]), (IN, ssh[1])),
        packed(_TCP, (OUT, len(test_dns.QUERY).to_bytes(2, "big") + test_dns.QUERY)),
    ]


def _tools() -> list[bytes]:
    login = test_yamux.frame(0, 0, 1, test_frp.message(b"o", test_frp.LOGIN))
    rathole = [test_rathole.HELLO + test_rathole.digest(word) for word in (b"a", b"b")]
    upgrade = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: chisel-v3\r\n\r\n"
    return [
        packed(_TCP, (OUT, b"\x17" + hellos.records(hellos.CHROME))),
        packed(_TCP, (OUT, test_yamux.OPEN + login)),
        packed(_TCP, (OUT, rathole[0]), (IN, rathole[1]), (OUT, test_rathole.digest(b"c"))),
        packed(_TCP, (OUT, test_gsocket.message(1))),
        packed(_TCP, (OUT, b'{"Hello":0}\0'), (IN, b'{"Hello":1}\0')),
        packed(_TCP, (OUT, upgrade)),
        packed(_UDP, (OUT, test_wireguard.INITIATION), (IN, test_wireguard.RESPONSE)),
    ]


def _proxies() -> list[bytes]:
    connect, connected = b"CONNECT h:1 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"
    socks, relayed = b"\5\1\0\5\1\0\3\4host\1\xbb", b"\5\0\5\0\0\1\0\0\0\0\0\0"
    subscribe = b'{"id":1,"method":"mining.subscribe","params":[]}\n'
    return [
        packed(_TCP, (OUT, subscribe), (IN, b'{"id":1,"result":true}\n')),
        packed(_TCP, (OUT, connect), (IN, connected), (OUT, subscribe)),
        packed(_TCP, (OUT, socks), (IN, relayed), (OUT, subscribe)),
    ]


def main() -> int:
    seconds, seed = int(sys.argv[1]), int((*sys.argv[2:], "1")[0])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20, MEMORY_MIB << 20))
    inputs = seeds()
    runs, lines = fuzz(one_input, inputs, "agentwatch/detect", seconds, seed)
    print(f"{runs} runs, {lines} lines reached, {len(inputs)} inputs kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
