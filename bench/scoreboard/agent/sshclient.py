"""A remote forward by plain Python: `sshclient.py HOST PORT REMOTE_PORT TARGET_PORT [BANNER]`.

For what libraries such as paramiko do: the protocol in a process of the interpreter. Key exchange
by group 14 (RFC 8268), chacha20-poly1305 as OpenSSH has it (PROTOCOL.chacha20poly1305), no login
(the server here takes everybody) and no check of the server's key. The forward is RFC 4254, 7.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import sys
import threading
import time

GROUP14 = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F"
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
    "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510"
    "15728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
NAMES = ["diffie-hellman-group14-sha256", "ssh-ed25519", *["chacha20-poly1305@openssh.com"] * 2]
NAMES += [*["hmac-sha2-256"] * 2, *["none"] * 2, "", ""]
WINDOW, PACKET = 1 << 20, 1 << 15
KEXINIT, NEWKEYS, KEXDH_INIT = 20, 21, 30


def text(told: str | bytes) -> bytes:
    data = told.encode() if isinstance(told, str) else told
    return struct.pack(">I", len(data)) + data


def mpint(number: int) -> bytes:
    return text(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def take_text(data: bytes, place: int = 0) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(">I", data, place)
    return data[place + 4 : place + 4 + size], place + 4 + size


def chacha(key: bytes, nonce: bytes, counter: int, size: int) -> bytes:
    """Key stream of Bernstein's ChaCha20: 64-bit counter and nonce."""
    out = b""
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key)]
    rounds: tuple[tuple[int, ...], ...] = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
    rounds += ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
    while len(out) < size:
        state = [*start, counter & 0xFFFFFFFF, counter >> 32, *struct.unpack("<2I", nonce)]
        work = list(state)
        for _ in range(10):
            for a, b, c, d in rounds:
                for one, two, three, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                    work[one] = (work[one] + work[two]) & 0xFFFFFFFF
                    mixed = work[three] ^ work[one]
                    work[three] = (mixed << left | mixed >> 32 - left) & 0xFFFFFFFF
        out += struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(state, work, strict=True)))
        counter += 1
    return out[:size]


def poly1305(key: bytes, data: bytes) -> bytes:
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for place in range(0, len(data), 16):
        total = (total + int.from_bytes(data[place : place + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(key[16:], "little")) & (1 << 128) - 1).to_bytes(16, "little")


def xor(data: bytes, stream: bytes) -> bytes:
    return bytes(one ^ two for one, two in zip(data, stream, strict=True))


class Transport:
    """Packets, in the clear until `keys` are set: (to the server, from it)."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.keys: list[bytes] = []
        self.sent = self.received = 0
        self.writing = threading.Lock()

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.connection.recv(size - len(data))
            if not more:
                sys.exit("the server hung up")
            data += more
        return data

    def send(self, payload: bytes) -> None:
        with self.writing:
            padding = 4 + -(len(payload) + 1 + 4 + (0 if self.keys else 4)) % 8
            packet = bytes([padding]) + payload + os.urandom(padding)
            size = struct.pack(">I", len(packet))
            if self.keys:
                key, nonce = self.keys[0], struct.pack(">Q", self.sent)
                size = xor(size, chacha(key[32:], nonce, 0, 4))
                sealed = size + xor(packet, chacha(key[:32], nonce, 1, len(packet)))
                data = sealed + poly1305(chacha(key[:32], nonce, 0, 32), sealed)
            else:
                data = size + packet
            self.sent += 1
            self.connection.sendall(data)

    def receive(self) -> bytes:
        nonce = struct.pack(">Q", self.received)
        size = self.take(4)
        if self.keys:
            key = self.keys[1]
            (length,) = struct.unpack(">I", xor(size, chacha(key[32:], nonce, 0, 4)))
            sealed = self.take(length)
            self.take(16)
            packet = xor(sealed, chacha(key[:32], nonce, 1, length))
        else:
            packet = self.take(struct.unpack(">I", size)[0])
        self.received += 1
        return packet[1 : len(packet) - packet[0]]

    def wait_for(self, *kinds: int) -> bytes:
        while (message := self.receive())[0] not in kinds:
            pass
        return message


def exchange_keys(transport: Transport, banner: bytes) -> None:
    connection = transport.connection
    connection.sendall(banner + b"\r\n")
    server = b""
    while not server.endswith(b"\n"):
        server += transport.take(1)
    ours = bytes([KEXINIT]) + os.urandom(16) + b"".join(map(text, NAMES)) + bytes(5)
    transport.send(ours)
    theirs = transport.wait_for(KEXINIT)
    secret = int.from_bytes(os.urandom(32), "big")
    public = pow(2, secret, GROUP14)
    transport.send(bytes([KEXDH_INIT]) + mpint(public))
    reply = transport.wait_for(KEXDH_INIT + 1)
    host_key, place = take_text(reply, 1)
    answer, _ = take_text(reply, place)
    shared = mpint(pow(int.from_bytes(answer, "big"), secret, GROUP14))
    told = map(text, (banner, server.strip(), ours, theirs, host_key))
    digest = hashlib.sha256(b"".join(told) + mpint(public) + text(answer) + shared).digest()
    transport.send(bytes([NEWKEYS]))
    transport.wait_for(NEWKEYS)
    keys = []
    for letter in (b"C", b"D"):
        first = hashlib.sha256(shared + digest + letter + digest).digest()
        keys.append(first + hashlib.sha256(shared + digest + first).digest())
    transport.keys = keys


def log_in(transport: Transport) -> None:
    transport.send(b"\x05" + text("ssh-userauth"))
    transport.wait_for(6)
    transport.send(b"\x32" + text("u") + text("ssh-connection") + text("none"))
    if transport.wait_for(51, 52)[0] == 51:
        sys.exit("the server wants a key")


def carry(transport: Transport, channel: int, inner: socket.socket) -> None:
    """From the target back through the tunnel."""
    while data := inner.recv(4096):
        transport.send(b"\x5e" + struct.pack(">I", channel) + text(data))


def serve_forward(transport: Transport, target: int, end: float) -> None:
    """Channels that come in are led to the target."""
    inner: dict[int, socket.socket] = {}
    while time.monotonic() < end:
        message = transport.receive()
        if message[0] == 90:  # channel open
            _, place = take_text(message, 1)
            (theirs,) = struct.unpack_from(">I", message, place)
            inner[theirs] = socket.create_connection(("127.0.0.1", target))
            transport.send(b"\x5b" + struct.pack(">4I", theirs, theirs, WINDOW, PACKET))
            threading.Thread(target=carry, args=(transport, theirs, inner[theirs]), daemon=True).start()
        elif message[0] == 94:  # data
            (channel,) = struct.unpack_from(">I", message, 1)
            if channel in inner:
                inner[channel].sendall(take_text(message, 5)[0])


def main(arguments: list[str]) -> None:
    host, (port, remote, target) = arguments[0], map(int, arguments[1:4])
    banner = arguments[4] if len(arguments) > 4 else "SSH-2.0-Plain_1.0"
    transport = Transport(socket.create_connection((host, port), timeout=10))
    exchange_keys(transport, banner.encode())
    log_in(transport)
    transport.send(b"\x50" + text("tcpip-forward") + b"\1" + text("127.0.0.1") + struct.pack(">I", remote))
    if transport.wait_for(81, 82)[0] == 82:
        sys.exit("the forward was refused")
    serve_forward(transport, target, time.monotonic() + 8)


if __name__ == "__main__":
    main(sys.argv[1:])
