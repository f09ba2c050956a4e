"""Serves the control socket: who may ask what, how often, and what becomes of slow clients.

It knows nothing of the watch: requests that are allowed go to `ask`, what is to be followed comes
through `publish`. It runs in a process of its own; what a client does cannot reach the event path.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentwatch import __version__
from agentwatch.control.protocol import LINE_LIMIT, PROTOCOL, ProtocolError, Request, encode, parse

CLIENTS: Final = 64
CLIENTS_OF_USER: Final = 16
LINE_SECONDS: Final = 10.0  # for a line that has begun
RATE: Final = 50.0  # requests a second, of one client
BURST: Final = 100
FOLLOWED: Final = 8  # subscriptions of one client
HELD: Final = 1000  # items held for a subscription whose request is being answered
BACKLOG: Final = 1 << 20  # bytes that a client may leave unread before items are dropped
STALLED_SECONDS: Final = 30.0  # a client that reads nothing for so long is let go

_CREDENTIALS = struct.Struct("3i")  # struct ucred


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, by the kernel's word (SO_PEERCRED), when it connected."""

    pid: int
    uid: int
    gid: int
    cgroup: str

    @property
    def name(self) -> str:
        """The user's name."""
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(self.uid).pw_name
        return str(self.uid)

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        size = _CREDENTIALS.size
        pid, uid, gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return cls(pid, uid, gid, _cgroup_of(pid))

    def groups(self) -> set[int]:
        """Its group and those that the user is in."""
        with contextlib.suppress(KeyError, OSError):
            return {self.gid, *os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)}
        return {self.gid}


def _cgroup_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text(errors="surrogateescape").splitlines():
            if line.startswith("0::"):
                return line[3:].lstrip("/")
    return ""


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of groups: members of `act` may act as root may, those of `read` may ask."""

    act: str = ""
    read: str = ""

    def of(self, peer: Peer) -> str:
        """act, read, or empty: nothing at all."""
        groups = peer.groups()
        if peer.uid == 0 or _group(self.act) in groups:
            return "act"
        return "read" if _group(self.read) in groups else ""


def _group(name: str) -> int:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(name).gr_gid
    return -1


Ask = Callable[[str, Mapping[str, Any], Peer], Awaitable[Any]]
Audit = Callable[[str], None]


@dataclass(slots=True)
class _Follow:
    """One subscription: `dropped` items were not sent since the last that was.

    Until its request is answered, what comes is `held`: the answer may hold it already.
    """

    id: int
    topic: str
    wanted: Mapping[str, Any]
    dropped: int = 0
    held: deque[tuple[int, Mapping[str, Any]]] | None = field(default_factory=lambda: deque(maxlen=HELD))

    def takes(self, topic: str, item: Mapping[str, Any]) -> bool:
        return topic == self.topic and all(item.get(name) == value for name, value in self.wanted.items())


@dataclass(slots=True)
class _Client:
    peer: Peer
    role: str
    writer: asyncio.StreamWriter
    follows: list[_Follow] = field(default_factory=list)
    tokens: float = BURST
    refilled: float = 0.0

    def may_ask(self, now: float) -> bool:
        """A token bucket: RATE a second, BURST at once."""
        self.tokens = min(BURST, self.tokens + (now - self.refilled) * RATE)
        self.refilled = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def backlog(self) -> int:
        return self.writer.transport.get_write_buffer_size()

    def send(self, message: Mapping[str, Any]) -> None:
        if not self.writer.is_closing():
            self.writer.write(encode(message))

    def give(self, follow: _Follow, item: Mapping[str, Any]) -> bool:
        """Send an item of a subscription; False for a client that is too slow for it."""
        if self.backlog() > BACKLOG:
            follow.dropped += 1
            return False
        self.send({"id": follow.id, "item": item, "dropped": follow.dropped})
        follow.dropped = 0
        return True


class Server:
    """The socket at `path`. `follows` is told how many follow a topic whenever that changes."""

    def __init__(
        self, path: Path, roles: Roles, ask: Ask, audit: Audit, follows: Callable[[str, int], None]
    ) -> None:
        self._path, self.roles, self._ask, self._audit, self._follows = path, roles, ask, audit, follows
        self._clients: list[_Client] = []
        self._server: asyncio.Server | None = None
        self.dropped = 0
        self.refused = 0

    @property
    def clients(self) -> int:
        return len(self._clients)

    async def start(self) -> None:
        """Listen. Raises `OSError`. A socket that nobody serves any more is replaced."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(str(self._path))
        self._path.chmod(0o666)  # who may do what is decided by who asks, not by the file
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=LINE_LIMIT)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.writer.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def publish(self, topic: str, number: int, item: Mapping[str, Any]) -> None:
        """Send an item to all who follow its topic; those who are too slow miss it, and are told.

        The items of a topic are numbered upwards; an answer's `last` is that of the last it holds.
        """
        for client in self._clients:
            for follow in client.follows:
                if not follow.takes(topic, item):
                    continue
                if follow.held is not None:
                    follow.held.append((number, item))
                else:
                    self.dropped += not client.give(follow, item)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer.of(writer.get_extra_info("socket"))
        client = _Client(peer, self.roles.of(peer), writer)
        reason = self._reason_against(client)
        if reason:
            self.refused += 1
            client.send({"error": reason[1], "code": reason[0]})
            writer.close()
            return
        self._clients.append(client)
        client.send({"agentwatch": __version__, "protocol": PROTOCOL, "role": client.role})
        watching = asyncio.ensure_future(self._let_go_of_stalled(client))
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError, asyncio.TimeoutError):
                while line := await self._line(reader):
                    await self._handle(client, line)
        finally:
            watching.cancel()
            self._clients.remove(client)
            topics = {follow.topic for follow in client.follows}
            client.follows.clear()
            for topic in sorted(topics):
                self._tell_follows(topic)
            writer.close()

    def _reason_against(self, client: _Client) -> tuple[str, str] | None:
        if not client.role:
            self._audit(f"denied: {client.peer.name} (pid {client.peer.pid}) may not even read")
            return (
                "denied",
                f"{client.peer.name} may neither act nor read: see [control] in the configuration",
            )
        of_user = sum(other.peer.uid == client.peer.uid for other in self._clients)
        if len(self._clients) >= CLIENTS or (client.peer.uid and of_user >= CLIENTS_OF_USER):
            return "busy", "too many clients are connected"
        return None

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """The next line; empty at the end. A line that was begun must end soon, and not be too long."""
        first = await reader.read(1)
        if not first or first == b"\n":
            return first
        return first + await asyncio.wait_for(reader.readuntil(b"\n"), LINE_SECONDS)

    async def _handle(self, client: _Client, line: bytes) -> None:
        if not line.strip():
            return
        number = 0
        try:
            request = parse(line)
            number = request.id
            if not client.may_ask(asyncio.get_running_loop().time()):
                raise ProtocolError("busy", f"more than {RATE:.0f} requests a second")
            if request.verb.acts and client.role != "act":
                self._audit(f"denied: {client.peer.name} (pid {client.peer.pid}): {request.verb.name}")
                raise ProtocolError("denied", f"{client.peer.name} may not {request.verb.name}, only read")
            await self._answer(client, request)
        except ProtocolError as error:
            client.send({"id": number, "error": str(error), "code": error.code})
        await client.writer.drain()

    async def _answer(self, client: _Client, request: Request) -> None:
        arguments = dict(request.arguments)
        name = request.verb.name
        if name != "events" and not arguments.pop("follow", False):
            result = await self._ask(name, arguments, client.peer)
            client.send({"id": request.id, "result": result})
            return
        if len(client.follows) >= FOLLOWED:
            raise ProtocolError("busy", f"one client follows {FOLLOWED} things at most")
        wanted = {key: value for key, value in arguments.items() if key != "limit"}
        follow = _Follow(request.id, name, wanted)
        client.follows.append(follow)
        self._tell_follows(name)
        result = {"last": 0} if name == "events" else await self._ask(name, arguments, client.peer)
        client.send({"id": request.id, "result": result})
        held, follow.held = follow.held, None
        for number, item in held or ():
            if number > result["last"]:
                client.give(follow, item)

    def _tell_follows(self, topic: str) -> None:
        self._follows(topic, sum(f.topic == topic for client in self._clients for f in client.follows))

    async def _let_go_of_stalled(self, client: _Client) -> None:
        """A client that has left a full backlog unread for STALLED_SECONDS is gone for all we know."""
        full_since: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            if client.backlog() <= BACKLOG:
                full_since = None
            elif full_since is None:
                full_since = loop.time()
            elif loop.time() - full_since > STALLED_SECONDS:
                client.writer.transport.abort()
                return
