"""One connection: whatever the client says first decides who it has reached."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from bench.scoreboard.internet import certificates, http, pool, ssh
from bench.scoreboard.internet.stream import Stream

SSH_PORT = 22
_SILENCE = 0.6  # seconds after which a client that says nothing waits for us
_NOISE_MESSAGE = 64  # the first message of Stratum v2's handshake
# What somebody types who has been called home by a shell; a tunnel's far side hears it too.
COMMANDS = (b"id\n", b"uname -a\n", b"pwd\n", b"ls /\n", b"echo done\n")
_TYPING = 0.35  # seconds between two
_READABLE = re.compile(rb"[\t\r\n\x1b -~]+")
_CONNECT = re.compile(rb"CONNECT \S+ HTTP/1\.[01]\r\n")


@dataclass(frozen=True)
class Host:
    """Who answers: `folder` holds keys; `local` at the agent's own loopback."""

    folder: Path
    local: bool


def answer(connection: socket.socket, host: Host) -> None:
    """Talk until the client leaves."""
    port = connection.getsockname()[1] if connection.family != socket.AF_UNIX else 0
    if port == SSH_PORT and not host.local:
        ssh.serve(Stream(connection), host.folder)
    elif host.local and port == SSH_PORT:
        connection.sendall(ssh.LOCAL_BANNER)
        _echo(Stream(connection))
    else:
        converse(Stream(connection), host)


def converse(stream: Stream, host: Host) -> None:
    """Find out what the client speaks and speak it; layers are taken off one by one."""
    first = stream.peek(_SILENCE)
    if first is None:
        _meet_silence(stream, host)
    elif first[:2] == b"\x16\x03":
        _unwrap_tls(stream, host)
    elif first[:1] == b"\x05":
        _pass_socks5(stream, host)
    elif first[:1] == b"\x04" and len(first) > 8:
        stream.read()
        stream.write(b"\x00\x5a" + bytes(6))
        converse(stream, host)
    elif _CONNECT.match(first):
        http.read_head(stream)
        stream.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        converse(stream, host)
    elif http.begins_request(first):
        inner = http.serve(stream)
        if inner is not None:
            converse(inner, host)
    else:
        _serve(stream, first, host)


def _serve(stream: Stream, first: bytes, host: Host) -> None:
    """No layer: the conversation itself."""
    if first.startswith(b"SSH-"):
        _meet_ssh(stream, host)
    elif first.lstrip()[:1] in (b"{", b"[") or first.startswith(b"shake~"):
        pool.serve(stream)
    elif len(first) == _NOISE_MESSAGE:
        _answer_noise(stream)
    elif not host.local and _READABLE.fullmatch(first):
        _type_commands(stream)  # a shell's prompt
    else:
        _echo(stream)


def _meet_silence(stream: Stream, host: Host) -> None:
    if host.local:
        _echo(stream)
    else:
        _type_commands(stream)


def _meet_ssh(stream: Stream, host: Host) -> None:
    """A client, or the server of the agent's own host at the far end of a tunnel."""
    first = stream.peek(_SILENCE)
    if first is not None and first.startswith(ssh.LOCAL_BANNER.rstrip()):
        stream.read()
        stream.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        _type_commands(stream)
    else:
        ssh.serve(stream, host.folder)


def _unwrap_tls(stream: Stream, host: Host) -> None:
    context = certificates.context(host.folder)
    with context.wrap_socket(stream.plain(), server_side=True) as inner:
        converse(Stream(inner), host)


def _pass_socks5(stream: Stream, host: Host) -> None:
    """RFC 1928, no authentication; then be the destination."""
    stream.read()
    stream.write(b"\x05\x00")
    request = stream.read()
    if request[:2] != b"\x05\x01":
        return
    stream.write(b"\x05\x00\x00\x01" + bytes(6))
    converse(stream, host)


def _answer_noise(stream: Stream) -> None:
    """Stratum v2: the handshake's answer, then frames, all of them noise."""
    stream.read()
    stream.write(os.urandom(234))
    while stream.read():
        stream.write(os.urandom(22 + 64))


def _type_commands(stream: Stream) -> None:
    for command in COMMANDS:
        stream.write(command)
        stream.drain(_TYPING)
    while stream.read():
        pass


def _echo(stream: Stream) -> None:
    """Something that answers, of about the size of what it was told."""
    while data := stream.read():
        stream.write(data[:1] + b"." * (len(data) % 1400 + 40) + b"\n")
