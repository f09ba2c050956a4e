"""A machine played to the detectors: processes with standard streams, flows, bytes."""

from __future__ import annotations

import socket
import struct
from typing import Any

from agentwatch.detect.chain import Chain
from agentwatch.detect.request import NoRequests
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import State
from agentwatch.event import Value
from agentwatch.schema import decode
from agentwatch.schema.events import BY_NAME, PayloadFlag, Piece, Ring, StreamKind
from tests.schema.records import raw

MS = 1_000_000
SECOND = 1000 * MS

Stream = tuple[StreamKind, int, int]
NULL: Stream = (StreamKind.NULL, 0, 0)


def inet(cookie: int) -> Stream:
    """A socket."""
    return StreamKind.INET, cookie, 0


def pipe(number: int) -> Stream:
    """An unnamed pipe."""
    return StreamKind.PIPE, number, 15


def fifo(number: int) -> Stream:
    """A named pipe."""
    return StreamKind.FIFO, number, 8


def pty(number: int) -> Stream:
    """A pseudo terminal."""
    return StreamKind.TERMINAL, number, 0


class World:
    """Every step passes a millisecond and gives the events that it led to; `told` has them all."""

    def __init__(self) -> None:
        self.state = State()
        self.chain = Chain(self.state, ("flow", "process_behaviour"), NoRequests())
        self.told: list[dict[str, Value]] = []
        self.now = SECOND
        self._seq = 0
        self._sequences: dict[tuple[int, bool], int] = {}
        self._messages: dict[tuple[int, bool], int] = {}
        self._last: dict[int, bool] = {}
        self.flows: dict[int, dict[str, Any]] = {}
        self._owners: dict[int, int] = {}

    def fork(self, parent: int, child: int) -> list[dict[str, Value]]:
        return self._record("fork", tgid=child, start=child, parent=parent, parent_start=parent)

    def exec(self, pid: int, *argv: str, exe: str = "", parent: int = 1, stdin: Stream = NULL,
             stdout: Stream = NULL, stderr: Stream | None = None) -> list[dict[str, Value]]:  # fmt: skip
        """`exe` is `/bin/` and the first word unless given."""
        exe = exe or f"/bin/{argv[0]}"
        words = b"".join(word.encode() + b"\0" for word in argv)
        names = b"\0".join(reversed(exe.encode().split(b"/")[1:])) + b"\0"
        streams = b"".join(
            struct.pack("<QQI4x", identity, peer, kind)
            for kind, identity, peer in (stdin, stdout, stdout if stderr is None else stderr)
        )
        for kind, data in ((Piece.EXE, names), (Piece.ARGV, words), (Piece.STREAMS, streams)):
            self._record("exec_piece", tgid=pid, start=pid, kind=kind, length=len(data), data=data)
        more = {"parent": parent, "parent_start": parent, "argv_length": len(words)}
        return self._record("exec", tgid=pid, start=pid, **more)

    def exit(self, pid: int) -> list[dict[str, Value]]:
        return self._record("exit", tgid=pid, start=pid)

    def connect(self, pid: int, cookie: int, host: str = "203.0.113.5", port: int = 4001,
                accepted: bool = False) -> list[dict[str, Value]]:  # fmt: skip
        """The process connects (or accepts, on `port`); it succeeds."""
        self.open(pid, cookie, host, port, accepted)
        if accepted:
            return self._of_flow("accept", cookie)
        return self._of_flow("connect", cookie) + self._of_flow("connected", cookie)

    def open(self, pid: int, cookie: int, host: str = "203.0.113.5", port: int = 4001,
             accepted: bool = False) -> None:  # fmt: skip
        """A flow of which nothing was told yet."""
        near, far = (port, 50_000 + cookie) if accepted else (50_000 + cookie, port)
        self.flows[cookie] = {
            "cookie": cookie, "family": 2, "socktype": 1, "protocol": 6,
            "local_port": near, "remote_port": far,
            "local": socket.inet_aton("192.0.2.1").ljust(16, b"\0"),
            "remote": socket.inet_aton(host).ljust(16, b"\0"),
        }  # fmt: skip
        self._owners[cookie] = pid

    def close(self, cookie: int) -> list[dict[str, Value]]:
        return self._of_flow("close", cookie)

    def hears(self, cookie: int, data: bytes, after: int = MS) -> list[dict[str, Value]]:
        """Bytes come in."""
        return self._bytes(cookie, data, True, after)

    def says(self, cookie: int, data: bytes, after: int = MS) -> list[dict[str, Value]]:
        """Bytes go out."""
        return self._bytes(cookie, data, False, after)

    def unix(self, pid: int, path: str) -> list[dict[str, Value]]:
        data = path.encode()
        return self._record("unix_connect", tgid=pid, start=pid, length=len(data), data=data)

    def _bytes(self, cookie: int, data: bytes, incoming: bool, after: int) -> list[dict[str, Value]]:
        self.now += after
        key = cookie, incoming
        if self._last.get(cookie) is not incoming:
            self._last[cookie] = incoming
            self._messages[key] = self._messages.get(key, 0) + 1
        sequence = self._sequences.get(key, 1)
        self._sequences[key] = sequence + len(data)
        return self._of_flow(
            "payload",
            cookie,
            flags=int(PayloadFlag.IN) * incoming,
            data=data[:512],
            length=min(512, len(data)),
            packet_length=len(data),
            sequence=sequence,
            message=self._messages[key],
        )

    def _of_flow(self, name: str, cookie: int, **more: Any) -> list[dict[str, Value]]:
        pid = self._owners[cookie]
        return self._record(name, tgid=pid, start=pid, **(self.flows[cookie] | more))

    def _record(self, name: str, **fields: Any) -> list[dict[str, Value]]:
        self.now += MS
        record = raw(name, time=self.now, **fields)
        decoder = decode.slots if BY_NAME[name].ring is Ring.SLOTS else decode.records
        found: list[Sighting] = []
        for row in decoder(record):
            self._seq += 1
            change = self.state.apply(self._seq, row)
            found += self.chain.of(change) if change is not None else []
        told = [
            dict(event.fields) for event in found if "Behaviour" in event.fields or "Kind" in event.fields
        ]
        self.told += told
        return told
