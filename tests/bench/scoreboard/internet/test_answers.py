"""The services of the made-up internet, byte for byte, without a network."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scoreboard.internet import dns, pool, sftp
from bench.scoreboard.internet.peer import COMMANDS, Host, converse
from bench.scoreboard.internet.stream import Stream


@contextmanager
def visit(folder: Path, *, local: bool = False) -> Iterator[socket.socket]:
    """A client's end; the other is answered as the internet answers."""
    here, there = socket.socketpair()
    here.settimeout(10)

    def serve() -> None:
        with there:
            converse(Stream(there), Host(folder, local))

    thread = threading.Thread(target=serve)
    thread.start()
    with here:
        yield here
        here.shutdown(socket.SHUT_WR)
        while here.recv(4096):
            pass
    thread.join()


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (b'{"id":7,"method":"mining.subscribe","params":[]}\n', "result"),
        (b'[{"id":7,"method":"login","params":{"login":"w"}}]\n', "result"),
        (b'{"id":7,"method":"eth_submitWork","params":[]}\n', "error"),
        (b'{"id":7,"method":"eth_getWork"}', "result"),
    ],
)
def test_a_pool_answers_every_dialect(tmp_path: Path, request_: bytes, key: str) -> None:
    with visit(tmp_path) as client, client.makefile("rb") as lines:
        client.sendall(request_)
        told = json.loads(lines.readline())
        assert told["id"] == 7 and told[key]


def test_a_pool_pushes_jobs_after_the_login(tmp_path: Path) -> None:
    with visit(tmp_path) as client, client.makefile("rb") as lines:
        client.sendall(b'{"id":1,"method":"mining.subscribe","params":[]}\n')
        lines.readline()
        assert json.loads(lines.readline())["method"] == "mining.notify"


def test_proxies_let_through_to_whatever_is_asked_for(tmp_path: Path) -> None:
    with visit(tmp_path) as client:
        client.sendall(b"\x05\x01\x00")
        assert client.recv(2) == b"\x05\x00"
        client.sendall(b"\x05\x01\x00\x03\x04pool\x0d\x05")
        assert client.recv(10)[:2] == b"\x05\x00"
        client.sendall(b"CONNECT pool:3333 HTTP/1.1\r\nHost: pool\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        client.sendall(b'{"id":1,"method":"mining.authorize","params":[]}\n')
        assert json.loads(client.recv(4096))["result"] is True


def test_the_web_has_pages_scripts_and_coin_daemons(tmp_path: Path) -> None:
    with visit(tmp_path) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"#!/bin/sh" in client.recv(4096)
        body = b'{"id":1,"method":"getblocktemplate","params":[]}'
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert b"previousblockhash" in client.recv(65536)


def test_stratum_in_websocket_frames(tmp_path: Path) -> None:
    message = b'{"id":1,"method":"mining.subscribe","params":[]}'
    masked = bytes(byte ^ b"abcd"[place & 3] for place, byte in enumerate(message))
    with visit(tmp_path) as client:
        client.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhl\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        client.sendall(b"\x81" + bytes([128 | len(message)]) + b"abcd" + masked)
        frame = client.recv(4096)
        assert frame[0] == 0x81 and b"mining.notify" in frame


@pytest.mark.parametrize("prompt", [b"", b"$ "])
def test_an_operator_types_into_a_shell_that_calls(tmp_path: Path, prompt: bytes) -> None:
    with visit(tmp_path) as client, client.makefile("rb") as lines:
        client.sendall(prompt)
        assert [lines.readline() for _ in COMMANDS] == list(COMMANDS)


def test_stratum_v2s_handshake(tmp_path: Path) -> None:
    with visit(tmp_path) as client, client.makefile("rb") as stream:
        client.sendall(b"\xf2" * 64)
        assert len(stream.read(234)) == 234


def question(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 9, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def test_every_name_has_an_address_of_the_test_network() -> None:
    told = dns.reply(question("pool.example", dns.A))
    assert told[:2] == b"\0\x09"
    assert socket.inet_ntoa(told[-4:]) == dns.address_of("POOL.example.")
    assert dns.address_of("pool.example").startswith(("198.18.", "198.19."))
    assert struct.unpack_from(">H", dns.reply(question("x.example", 28)), 6) == (0,)


@given(st.binary(max_size=300))
def test_dns_takes_any_bytes(data: bytes) -> None:
    with suppress(ValueError):
        assert dns.reply(data)


@given(st.dictionaries(st.sampled_from(["id", "method", "params"]), st.text() | st.integers() | st.none()))
def test_a_pool_takes_any_request(request_: dict[str, object]) -> None:
    told = pool.answer(request_)
    assert told is None or told["id"] == request_.get("id")


def test_files_come_by_sftp(tmp_path: Path) -> None:
    def text(data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + data

    path = str(tmp_path / "f").encode()
    opened = sftp.reply(b"\x03\0\0\0\1" + text(path) + struct.pack(">II", 2 | 8 | 16, 0))
    assert opened[0] == sftp.HANDLE
    handle = opened[5:]
    assert sftp.reply(b"\x06\0\0\0\2" + handle + struct.pack(">Q", 0) + text(b"hello"))[0] == sftp.STATUS
    assert sftp.reply(b"\x04\0\0\0\3" + handle)[5:9] == b"\0\0\0\0"
    assert (tmp_path / "f").read_bytes() == b"hello"


@given(st.binary(min_size=5, max_size=100).filter(lambda data: data[0] not in (3, 4, 5, 6, 8)))
def test_sftp_takes_any_bytes(data: bytes) -> None:
    assert sftp.reply(data)
