"""The metrics endpoint, scraped, and under clients that mean harm."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from agentwatch.config.sinks import Prometheus
from agentwatch.sinks import prometheus as under_test
from agentwatch.sinks.prometheus import CONNECTIONS, PrometheusEndpoint
from tests.sinks.samples import run, until

TEXT = "agentwatch_records_total 1\n" * 100_000  # more than the socket's buffers take at once


class Lab:
    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.scrapes = 0
        self.said: list[str] = []

    def endpoint(self) -> PrometheusEndpoint:
        settings = Prometheus(listen=f"127.0.0.1:{self.port}")
        return PrometheusEndpoint(settings, lambda: TEXT, self._scraped, self.said.append)

    def _scraped(self) -> None:
        self.scrapes += 1

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                return await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.sleep(0.002)

    async def ask(self, request: str) -> tuple[str, str]:
        """The status line and the body."""
        reader, writer = await self.connect()
        writer.write(request.encode())
        answer = (await reader.read()).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        return head.split("\r\n")[0], body


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        ("GET /metrics HTTP/1.1", "HTTP/1.1 200 OK", TEXT),
        ("GET /metrics?x=1 HTTP/1.0", "HTTP/1.1 200 OK", TEXT),
        ("HEAD /metrics HTTP/1.1", "HTTP/1.1 200 OK", ""),
        ("GET / HTTP/1.1", "HTTP/1.1 404 Not Found", "metrics are at /metrics\n"),
        ("POST /metrics HTTP/1.1", "HTTP/1.1 405 Method Not Allowed", "GET it\n"),
    ],
)
def test_answers(request_line: str, status: str, body: str) -> None:
    async def scenario() -> None:
        lab = Lab()
        endpoint = lab.endpoint()
        assert await lab.ask(f"{request_line}\r\nHost: x\r\n\r\n") == (status, body)
        assert lab.scrapes == endpoint.status()["sent"] == ("200" in status)
        await endpoint.close()

    run(scenario)


def test_clients_that_say_nothing_keep_nobody_out() -> None:
    async def scenario() -> None:
        lab = Lab()
        endpoint = lab.endpoint()
        idle = [await lab.connect() for _ in range(CONNECTIONS * 2)]
        status, _ = await lab.ask("GET /metrics HTTP/1.1\r\n\r\n")
        assert status == "HTTP/1.1 200 OK"
        assert endpoint.status()["queued"] <= CONNECTIONS
        assert endpoint.status()["dropped"] > 0
        for _, writer in idle:
            writer.close()
        await endpoint.close()

    run(scenario)


@pytest.mark.parametrize("garbage", [b"\x00" * 100_000, b"\r\n\r\n", b"GET", b"GET /metrics"])
def test_garbage_is_let_go(garbage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_SECONDS", 0.1)

    async def scenario() -> None:
        lab = Lab()
        endpoint = lab.endpoint()
        reader, writer = await lab.connect()
        with contextlib.suppress(ConnectionError):
            writer.write(garbage)
            await reader.read()
        writer.close()
        await until(lambda: endpoint.status()["queued"] == 0)
        assert lab.scrapes == 0
        await endpoint.close()

    run(scenario)


def test_a_port_that_is_taken_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_RETRY", 0.01)

    async def scenario() -> None:
        lab = Lab()
        with socket.create_server(("127.0.0.1", lab.port)):
            endpoint = lab.endpoint()
            await until(lambda: endpoint.status()["error"])
            await asyncio.sleep(0.05)  # several attempts
        await until(lambda: not endpoint.status()["error"])
        assert (await lab.ask("GET /metrics HTTP/1.1\r\n\r\n"))[0] == "HTTP/1.1 200 OK"
        assert len(lab.said) == 1
        await endpoint.close()

    run(scenario)


@pytest.mark.parametrize("listen", ["0.0.0.0:9469", "192.0.2.1:9469", "[::]:9469", "metrics.test:9469"])
def test_it_is_for_this_machine_alone(listen: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        PrometheusEndpoint(Prometheus(listen=listen), lambda: "", lambda: None, print)
