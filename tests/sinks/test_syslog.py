"""Syslog over UDP, TCP and TLS, against receivers that read by the letter of the RFCs."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.config.sinks import FACILITIES, Syslog
from agentwatch.sinks.outlet import Outlet
from agentwatch.sinks.syslog import STRUCTURE, SyslogSink, message
from tests.sinks.samples import alert, certificate, item, run, until

pytestmark = pytest.mark.usefixtures("impatient")

# RFC 5424, section 6: printable ASCII in the header, and structured data whose values escape "\].
_MESSAGE = re.compile(
    r"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z) ([!-~]{1,255}) "
    r"([!-~]{1,48}) ([!-~]{1,128}) "
    r'([!-~]{1,32}) \[([!-~]{1,32})((?: [!-~]{1,32}="(?:[^"\\\]]|\\["\\\]])*")*)\] \ufeff(.*)',
    re.DOTALL,
)
_PARAMETER = re.compile(r' ([!-~]{1,32})="((?:[^"\\\]]|\\["\\\]])*)"')


class Message(NamedTuple):
    priority: int
    time: str
    host: str
    data: dict[str, str]
    text: str


def parsed(raw: bytes) -> Message:
    found = _MESSAGE.fullmatch(raw.decode("utf-8"))
    assert found, raw
    priority, time, host, name, process, kind, structure, parameters, text = found.groups()
    assert (name, process, kind, structure) == ("agentwatch", str(os.getpid()), "alert", STRUCTURE)
    data = {key: re.sub(r"\\(.)", r"\1", value) for key, value in _PARAMETER.findall(parameters)}
    return Message(int(priority), time, host, data, text)


class Receiver:
    """A TCP or TLS receiver that takes frames by their octet counts (RFC 6587, 3.4.1)."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                length = int(await reader.readuntil(b" "))
                self.got.append(parsed(await reader.readexactly(length)))
        except (asyncio.IncompleteReadError, OSError):
            self.writers.remove(writer)
            writer.close()


@asynccontextmanager
async def listening(
    receiver: Receiver, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    server = await asyncio.start_server(receiver.take, "127.0.0.1", port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in list(receiver.writers):
            writer.transport.abort()


@given(st.text(), st.text())
def test_a_message_holds_to_the_rfc_whatever_an_agent_wrote(exe: str, domain: str) -> None:
    made = alert(7, exe=exe)
    made["flow"]["domain"] = domain
    got = parsed(message(made, FACILITIES.index("local3"), "host", os.getpid()))
    assert got.priority == 19 * 8 + 3
    assert got.time == "2026-11-24T12:00:00.000000Z"
    assert got.data["rule"] == made["rule"]["id"]
    assert "\n" not in got.text


def test_datagrams(tmp_path: Path) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.setblocking(False)
            address = f"127.0.0.1:{receiver.getsockname()[1]}"
            outlet = Outlet("syslog", SyslogSink(Syslog(address=address)), print)
            outlet.put(item(1))
            got = parsed(await asyncio.get_running_loop().sock_recv(receiver, 65536))
            assert got.priority == 10 * 8 + 3  # authpriv
            assert got.data["remote"] == "192.0.2.7:3333"
            await outlet.close(1)

    run(scenario)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_streams_are_made_again_when_they_end(tmp_path: Path, transport: str) -> None:
    cert, key = certificate(tmp_path)
    tls = None
    if transport == "tls":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(cert, key)

    async def scenario() -> None:
        receiver = Receiver()
        async with listening(receiver, tls=tls) as port:
            settings = Syslog(address=f"localhost:{port}", transport=transport, ca_file=cert)
            outlet = Outlet("syslog", SyslogSink(settings), print)
            for number in range(300):
                outlet.put(item(number))
            await until(lambda: len(receiver.got) == 300)
            assert [one.data["pid"] for one in receiver.got] == [str(4000 + n) for n in range(300)]

        def noticed() -> str:
            outlet.put(item(300))  # some may be lost unseen, as syslog is
            return str(outlet.status()["error"])

        await until(noticed)
        outlet.put(item(301))
        async with listening(receiver, port, tls):
            await until(lambda: receiver.got[-1].data["pid"] == "4301")
            await until(lambda: not outlet.status()["error"])
        await outlet.close(1)
        assert outlet.status()["dropped"] == 0

    run(scenario)


def test_a_receiver_that_cannot_prove_who_it_is_gets_nothing(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "somebody.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async def scenario() -> None:
        receiver = Receiver()
        async with listening(receiver, tls=tls) as port:
            for ca_file in (None, cert):  # unknown, and of another name
                settings = Syslog(address=f"localhost:{port}", transport="tls", ca_file=ca_file)
                outlet = Outlet("syslog", SyslogSink(settings), print)
                outlet.put(item(1))
                error = await until(lambda outlet=outlet: outlet.status()["error"])  # type: ignore[misc]
                assert "certificate verify failed" in str(error).lower()
                await outlet.close(0)
        assert receiver.got == []

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_a_receiver_that_reads_nothing_hangs_alone() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            address = f"127.0.0.1:{deaf.getsockname()[1]}"
            outlet = Outlet("syslog", SyslogSink(Syslog(address=address, transport="tcp")), print)
            for number in range(9000):
                outlet.put(item(number, cmdline="x" * 250))
            await until(lambda: outlet.status()["error"] == "no answer in time")
            await outlet.close(0)

    run(scenario)


@pytest.mark.parametrize("address", ["nowhere", "host:", ":514", "host:99999", "fe80::1:514", "[host]:1"])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ValueError):
        SyslogSink(Syslog(address=address))
