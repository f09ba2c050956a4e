"""The control socket under its clients: polite ones, slow ones, and those that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentwatch.control import server as under_test
from agentwatch.control.protocol import LINE_LIMIT, PROTOCOL, ProtocolError, encode
from agentwatch.control.server import BURST, Peer, Roles, Server


class Core:
    """Answers like a core: echoes what it is asked, and keeps it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any], Peer]] = []
        self.followed: dict[str, int] = {}
        self.audit: list[str] = []
        self.answer: Callable[[], Awaitable[Any]] | None = None

    async def ask(self, verb: str, arguments: Mapping[str, Any], peer: Peer) -> Any:
        self.asked.append((verb, arguments, peer))
        if arguments.get("agent") == "nobody":
            raise ProtocolError("unknown", "there is no agent nobody")
        return await self.answer() if self.answer else {"verb": verb, "last": 0}

    def follows(self, topic: str, count: int) -> None:
        self.followed[topic] = count


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read(self) -> dict[str, Any]:
        line = await asyncio.wait_for(self.reader.readline(), 10)
        assert line, "the server closed the connection"
        message: dict[str, Any] = json.loads(line)
        return message

    def send(self, **message: Any) -> None:
        self.writer.write(encode(message))

    async def ask(self, **message: Any) -> dict[str, Any]:
        self.send(**message)
        return await self.read()

    def pause(self) -> None:
        """Read nothing any more."""
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.Transport:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport)
        return transport

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), 10) is not None
        return True


class Lab:
    """A server at a path, and clients of it."""

    def __init__(self, path: Path, roles: Roles) -> None:
        self.path = path
        self.core = Core()
        self.server = Server(path, roles, self.core.ask, self.core.audit.append, self.core.follows)

    async def client(self) -> Client:
        """One that was greeted."""
        client = await self.stranger()
        greeting = await client.read()
        assert greeting["protocol"] == PROTOCOL
        return client

    async def stranger(self) -> Client:
        return Client(*await asyncio.open_unix_connection(str(self.path), limit=1 << 24))


def run(path: Path, scenario: Callable[[Lab], Awaitable[None]], roles: Roles | None = None) -> None:
    async def main() -> None:
        async with served(path, roles or Roles()) as lab:
            await asyncio.wait_for(scenario(lab), 60)

    asyncio.run(main())


@contextlib.asynccontextmanager
async def served(path: Path, roles: Roles) -> AsyncIterator[Lab]:
    lab = Lab(path / "control.sock", roles)
    await lab.server.start()
    try:
        yield lab
    finally:
        await lab.server.close()


root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others may not act")
pytestmark = root


def test_a_request_is_answered_with_its_number(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        assert await client.ask(id=7, verb="ps", agent="a") == {"id": 7, "result": {"verb": "ps", "last": 0}}
        (asked,) = lab.core.asked
        assert asked[:2] == ("ps", {"agent": "a"})
        assert (asked[2].uid, asked[2].pid) == (0, os.getpid())

    run(tmp_path, scenario)


def test_an_error_of_the_core_reaches_who_asked(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        found = await client.ask(id=1, verb="pause", agent="nobody")
        assert found == {"id": 1, "error": "there is no agent nobody", "code": "unknown"}

    run(tmp_path, scenario)


def test_garbage_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        client.writer.write(b"\x00\xff{]\n\n")
        assert (await client.read())["code"] == "request"
        assert (await client.ask(id=2, verb="status"))["id"] == 2

    run(tmp_path, scenario)


def test_a_line_without_an_end_is_not_read_for_ever(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        client.writer.write(b"x" * (2 * LINE_LIMIT))
        assert await client.ended()
        assert (await (await lab.client()).ask(id=1, verb="ps"))["id"] == 1

    run(tmp_path, scenario)


def test_a_line_that_never_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "LINE_SECONDS", 0.05)

    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        client.writer.write(b'{"id"')
        assert await client.ended()
        assert lab.server.clients == 0

    run(tmp_path, scenario)


def test_too_many_requests_are_refused_one_by_one(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        for number in range(3 * BURST):
            client.send(id=number, verb="ps")
        codes = [(await client.read()).get("code") for _ in range(3 * BURST)]
        assert codes[:BURST] == [None] * BURST
        assert "busy" in codes

    run(tmp_path, scenario)


def test_clients_beyond_the_limit_are_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "CLIENTS", 2)

    async def scenario(lab: Lab) -> None:
        first, _ = await lab.client(), await lab.client()
        third = await lab.stranger()
        assert (await third.read())["code"] == "busy"
        first.writer.close()
        while lab.server.clients == 2:
            await asyncio.sleep(0)
        await lab.client()

    run(tmp_path, scenario)


def test_who_follows_gets_each_item_once_and_in_order(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        held = asyncio.Event()

        async def answer() -> Any:
            await held.wait()
            return {"alerts": [{"n": 1}, {"n": 2}], "last": 2}

        lab.core.answer = answer
        client = await lab.client()
        client.send(id=5, verb="alerts", follow=True)
        while not lab.core.asked:
            await asyncio.sleep(0)
        for number in (2, 3):  # while the core makes its answer, which holds the second already
            lab.server.publish("alerts", number, {"n": number})
        held.set()
        assert (await client.read())["result"]["last"] == 2
        lab.server.publish("alerts", 4, {"n": 4})
        assert [(await client.read())["item"]["n"] for _ in range(2)] == [3, 4]

    run(tmp_path, scenario)


def test_only_what_is_wanted_comes(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        await client.ask(id=1, verb="events", agent="a", category="flow")
        assert lab.core.followed == {"events": 1}
        for number, (agent, category) in enumerate((("b", "flow"), ("a", "dns_query"), ("a", "flow")), 1):
            lab.server.publish("events", number, {"agent": agent, "category": category})
        assert (await client.read())["item"] == {"agent": "a", "category": "flow"}
        client.writer.close()
        while lab.server.clients:
            await asyncio.sleep(0)
        assert lab.core.followed == {"events": 0}

    run(tmp_path, scenario)


def test_a_slow_client_misses_items_and_is_told_and_others_miss_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "BACKLOG", 10_000)

    async def scenario(lab: Lab) -> None:
        slow, quick = await lab.client(), await lab.client()
        for client in (slow, quick):
            await client.ask(id=1, verb="events")
        slow.pause()
        got = []
        for number in range(1, 2001):
            lab.server.publish("events", number, {"n": number, "filler": "x" * 1000})
            got.append((await quick.read())["item"]["n"])
        assert got == list(range(1, 2001))
        assert lab.server.dropped > 0
        missed = lab.server.dropped
        slow.resume()
        numbers: list[int] = []
        while len(numbers) < 2000 - missed:
            message = await slow.read()
            numbers.append(message["item"]["n"])
        lab.server.publish("events", 2001, {"n": 2001})
        assert (await slow.read())["dropped"] == missed
        assert numbers == list(range(1, 2001 - missed))

    run(tmp_path, scenario)


def test_a_client_that_reads_nothing_any_more_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "BACKLOG", 1000)
    monkeypatch.setattr(under_test, "STALLED_SECONDS", 0.1)

    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        await client.ask(id=1, verb="events")
        client.pause()
        for number in range(2000):
            lab.server.publish("events", number, {"filler": "x" * 1000})
        while lab.server.clients:
            await asyncio.sleep(0.05)

    run(tmp_path, scenario)


def test_roles_follow_the_user_and_the_groups() -> None:
    gid = os.getgid()
    group = grp.getgrgid(gid).gr_name
    assert Roles().of(Peer(1, 0, 0, "")) == "act"
    assert Roles().of(Peer(1, 54321, 54321, "")) == ""
    assert Roles(read=group).of(Peer(1, 54321, gid, "")) == "read"
    assert Roles(act=group, read=group).of(Peer(1, 54321, gid, "")) == "act"
    assert Roles(act="no-such-group").of(Peer(1, 54321, gid, "")) == ""


def test_who_may_only_read_does_not_act_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roles, "of", lambda self, peer: "read")

    async def scenario(lab: Lab) -> None:
        client = await lab.client()
        assert (await client.ask(id=1, verb="kill", agent="a"))["code"] == "denied"
        assert (await client.ask(id=2, verb="ps"))["id"] == 2
        assert [verb for verb, _, _ in lab.core.asked] == ["ps"]
        assert "kill" in lab.core.audit[0]

    run(tmp_path, scenario)


def test_who_may_nothing_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Roles, "of", lambda self, peer: "")

    async def scenario(lab: Lab) -> None:
        client = await lab.stranger()
        assert (await client.read())["code"] == "denied"
        assert await client.ended()

    run(tmp_path, scenario)


def test_a_socket_left_behind_is_replaced_and_gone_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("left by a daemon that was killed")

    async def scenario(lab: Lab) -> None:
        await lab.client()

    run(tmp_path, scenario)
    assert not (tmp_path / "control.sock").exists()
