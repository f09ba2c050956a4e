"""A stratum client that hashes nothing: every dialect, every disguise.

    fakeminer.py [--dialect NAME] [--to HOST:PORT] [DISGUISE...] [HOST:PORT]

It logs in, takes jobs, sends a share now and then, and leaves after --seconds. Options that it
does not know are ignored, as a miner's would be.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import ssl
import struct
import sys
import time
from typing import Any, Protocol

WALLET = "4" + "8" * 94
DIALECTS: dict[str, list[tuple[str, Any]]] = {
    "btc-v1": [("mining.subscribe", ["cpuminer/2.5.1"]), ("mining.authorize", ["bc1q.w", "x"])],
    "btc-configure": [
        ("mining.configure", [["version-rolling"], {"version-rolling.mask": "1fffe000"}]),
        ("mining.subscribe", ["bmminer"]),
        ("mining.authorize", ["bc1q.w", "x"]),
    ],
    "cryptonote": [("login", {"login": WALLET, "pass": "x", "agent": "XMRig/6.22", "algo": ["rx/0"]})],
    "ethproxy": [("eth_submitLogin", ["0x" + "0" * 40 + ".rig", "x"]), ("eth_getWork", [])],
    "ethereumstratum-1": [
        ("mining.subscribe", ["ethminer 0.19.0", "EthereumStratum/1.0.0"]),
        ("mining.authorize", ["0x" + "0" * 40, "x"]),
    ],
    "ethereumstratum-2": [
        (
            "mining.hello",
            {"agent": "ethminer", "host": "pool", "port": "1", "proto": "EthereumStratum/2.0.0"},
        ),
        ("mining.authorize", ["0x" + "0" * 40, "x"]),
    ],
    "kaspa": [("mining.subscribe", ["kaspa-miner/1"]), ("mining.authorize", ["kaspa:qq.rig", "x"])],
    "kawpow": [("mining.subscribe", ["kawpowminer/1.2"]), ("mining.authorize", ["RVN.rig", "x"])],
    "conflux": [("mining.subscribe", ["miner1", ""])],
    "zcash": [
        ("mining.subscribe", ["MagicBean/1.0.0", None, "pool.example.com", 3337]),
        ("mining.authorize", ["t1.rig", "x"]),
    ],
    "grin": [("login", {"login": "user@example", "pass": "x", "agent": "grin-miner"})],
    "xmrig-proxy": [
        ("login", {"login": "node-17", "pass": "x", "agent": "xmrig-proxy/6.22", "algo": ["rx/0"]})
    ],
}
DIALECTS |= {"xmr": DIALECTS["cryptonote"], "monero": DIALECTS["cryptonote"], "evasion": DIALECTS["btc-v1"]}
DIALECTS |= {"ravencoin": DIALECTS["kawpow"], "zcash-zip301": DIALECTS["zcash"], "btc": DIALECTS["btc-v1"]}
SHARES: dict[str, tuple[str, Any]] = {
    "login": ("submit", {"id": "1", "job_id": "1", "nonce": "d0030040", "result": "0" * 64}),
    "eth": ("eth_submitWork", ["0x1", "0x" + "0" * 64, "0x" + "0" * 64]),
    "mining": ("mining.submit", ["bc1q.w", "1", "00000000", "504e86ed", "b2957c02"]),
}
DEFAULT_POOL = "198.51.100.10:3333"


def split_host(text: str) -> tuple[str, int]:
    host, _, port = text.rsplit("://", maxsplit=1)[-1].rstrip("/").rpartition(":")
    return host.strip("[]"), int(port)


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--dialect", default="btc-v1")
    for name in ("--to", "--ipv6", "--connect-proxy", "--socks5", "--socks4", "--unix", "--ws", "--sni"):
        parser.add_argument(name)
    for name in (
        "--tls",
        "--no-sni",
        "--json-escape",
        "--batch",
        "--pad",
        "--bytes",
        "--websocket",
        "--quiet",
    ):
        parser.add_argument(name, action="store_true")
    for name in ("--body", "--spaces", "--reorder", "--throttle", "--sleep-when-busy", "--sv2", "--shuffle"):
        parser.add_argument(name, nargs="?", const="yes")
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--seconds", type=float, default=5)
    return parser.parse_known_args(arguments)


def connect(options: argparse.Namespace, target: tuple[str, int]) -> socket.socket:
    if options.unix:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(options.unix)
        return connection
    proxy = options.connect_proxy or options.socks5 or options.socks4
    connection = socket.create_connection(split_host(proxy) if proxy else target, timeout=10)
    if options.connect_proxy:
        line = f"CONNECT {target[0]}:{target[1]} HTTP/1.1\r\nHost: {target[0]}:{target[1]}\r\n\r\n"
        connection.sendall(line.encode())
        connection.recv(4096)
    elif options.socks5:
        connection.sendall(b"\x05\x01\x00")
        connection.recv(2)
        name = target[0].encode()
        connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", target[1]))
        connection.recv(10)
    elif options.socks4:
        connection.sendall(
            b"\x04\x01" + struct.pack(">H", target[1]) + b"\0\0\0\1\0" + target[0].encode() + b"\0"
        )
        connection.recv(8)
    return connection


def wrap_tls(options: argparse.Namespace, connection: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection, server_hostname=None if options.no_sni else options.sni or host)


class Wire(Protocol):
    """A socket, TLS or WebSocket frames."""

    def sendall(self, data: bytes, /) -> None: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, seconds: float, /) -> None: ...


class WebSocket:
    """Client's side of RFC 6455: masked text frames."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        self._connection = connection
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        connection.sendall((head + f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
        connection.recv(4096)

    def sendall(self, data: bytes, /) -> None:
        key = os.urandom(4)
        size = bytes([128 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        masked = bytes(byte ^ key[place & 3] for place, byte in enumerate(data))
        self._connection.sendall(b"\x81" + size + key + masked)

    def recv(self, size: int, /) -> bytes:
        return self._connection.recv(size)

    def settimeout(self, seconds: float, /) -> None:
        self._connection.settimeout(seconds)


def messages(options: argparse.Namespace) -> list[str]:
    """The login, as lines."""
    if options.dialect == "ironfish":
        body = {"version": 3, "agent": "lolMiner/1.85", "publicAddress": "MINER.W"}
        return [json.dumps({"id": 0, "method": "mining.subscribe", "body": body})]
    if options.dialect == "beam":
        return ['{"method":"login","api_key":"3c4e","id":"login","jsonrpc":"2.0"}']
    if options.dialect in ("xelis", "xelis-xatum"):
        return ['shake~{"addr":"xel:ys4peuzz","work":"x","agent":"xmrig/v0.1.0","algos":["xel/0"]}']
    if options.dialect.startswith("nimiq"):
        return ['{"message":"register","mode":"nano","address":"NQ07 0000","deviceId":1,"deviceData":{}}']
    calls = DIALECTS.get(options.dialect, DIALECTS["btc-v1"])
    requests = [
        {"id": number, "jsonrpc": "2.0", "method": method, "params": parameters}
        for number, (method, parameters) in enumerate(calls, 1)
    ]
    if options.batch:
        return [json.dumps(requests)]
    lines = [json.dumps(request) for request in requests]
    if options.json_escape:
        lines = [
            line.replace('"mining.', '"\\u006dining.').replace('"method"', '"\\u006dethod"') for line in lines
        ]
    if options.pad:
        lines = ['{"pad":"' + "A" * 300 + '",' + line[1:] for line in lines]
    if options.spaces:
        lines = ["  \t" + line.replace(":", " : ").replace(",", " , ") for line in lines]
    return lines


def send(connection: Wire, line: str, options: argparse.Namespace) -> None:
    data = line.encode() + b"\n"
    if options.bytes:
        for byte in data:
            connection.sendall(bytes([byte]))
    else:
        connection.sendall(data)


def mine(options: argparse.Namespace, connection: Wire) -> None:
    for line in messages(options):
        send(connection, line, options)
        receive(connection, 0.3)
    first = DIALECTS.get(options.dialect, DIALECTS["btc-v1"])[0][0]
    method, parameters = SHARES["eth" if first.startswith("eth") else first.split(".")[0]]
    end, number = time.monotonic() + options.seconds, 10
    while time.monotonic() < end:
        receive(connection, 1.0)
        number += 1
        send(connection, json.dumps({"id": number, "method": method, "params": parameters}), options)


def receive(connection: Wire, seconds: float) -> None:
    connection.settimeout(seconds)
    try:
        if not connection.recv(65536):
            sys.exit("the pool hung up")
    except (TimeoutError, ssl.SSLWantReadError):
        pass
    connection.settimeout(10)


def speak_noise(connection: Wire, seconds: float) -> None:
    """Stratum v2: Noise NX, of which only the shape is here."""
    connection.sendall(os.urandom(64))
    connection.recv(4096)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(os.urandom(22 + 60))
        receive(connection, 1.0)


def main() -> None:
    options, rest = parse(sys.argv[1:])
    named = [word for word in rest if ":" in word and not word.startswith("-")]
    where = options.to or options.ipv6 or options.ws or (named[-1] if named else DEFAULT_POOL)
    target = (
        split_host(where) if where.split("://")[-1].rstrip("/").split(":")[-1].isdigit() else (where, 443)
    )
    time.sleep(options.delay)
    if options.tls:
        options.seconds = max(options.seconds, 15)
    connection: socket.socket = connect(options, target)
    wire: Wire
    if options.tls or where.startswith(("wss:", "stratum+ssl:", "stratum+tls:")):
        connection = wrap_tls(options, connection, target[0])
    if options.ws or options.websocket or where.startswith(("ws:", "wss:")):
        wire = WebSocket(connection, target[0])
    else:
        wire = connection
    if options.sv2 or options.dialect.startswith("sv2"):
        speak_noise(wire, options.seconds)
    else:
        mine(options, wire)


if __name__ == "__main__":
    main()
