"""Webhooks against servers that hang, refuse, fail, redirect, talk nonsense, and cannot be trusted."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.config.sinks import Webhook
from agentwatch.sinks import http
from agentwatch.sinks.http import Target
from agentwatch.sinks.outlet import Outlet
from agentwatch.sinks.webhook import WebhookSink, read_secret
from tests.sinks.receiver import HttpServer
from tests.sinks.samples import certificate, item, run, until

pytestmark = pytest.mark.usefixtures("impatient")


def secret(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text("hush\n")
    path.chmod(mode)
    return path


def test_alerts_come_signed_and_in_batches(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = HttpServer()
        async with server.listening():
            url = f"http://127.0.0.1:{server.port}/hook?team=1"
            outlet = Outlet("w", WebhookSink(Webhook(url=url, secret_file=secret(tmp_path))), print)
            for number in range(150):
                outlet.put(item(number))
            await until(lambda: outlet.status()["sent"] == 150)
            await outlet.close(1)
        assert len(server.requests) == 2
        request = server.requests[0]
        assert (request.path, request.headers["content-type"]) == ("/hook?team=1", "application/json")
        fields = dict(part.split("=") for part in request.headers["agentwatch-signature"].split(","))
        assert abs(int(fields["t"]) - time.time()) < 60
        expected = hmac.new(b"hush", fields["t"].encode() + b"." + request.body, hashlib.sha256)
        assert fields["v1"] == expected.hexdigest()
        body = json.loads(request.body)
        assert body["version"] == 1
        assert [one["evidence"] for one in body["alerts"]] == [[number] for number in range(100)]

    run(scenario)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 500 Oh\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 429 Slow\r\n\r\n", "answered 429"),
        (b"HTTP/1.1 403 No\r\n\r\n", "answered 403"),
        (
            b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            "answered 302; redirects are not followed",
        ),
        (b"HTTP/1.1 100 Go on\r\n\r\n", "no answer"),
        (b"220 mail ESMTP\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 100 Go on\r\nx: " + b"y" * 200_000, "the answer has a line without end"),
        (b"", "no answer"),
        (None, "no answer in time"),
    ],
)
def test_what_fails_is_tried_again_until_it_works(
    answer: bytes | None, error: str, request: pytest.FixtureRequest
) -> None:
    if answer is None:
        request.getfixturevalue("hasty")

    async def scenario() -> None:
        server = HttpServer()
        server.answer = answer
        async with server.listening():
            outlet = Outlet("w", WebhookSink(Webhook(url=f"http://127.0.0.1:{server.port}/")), print)
            outlet.put(item(1))
            assert await until(lambda: outlet.status()["error"]) == error
            server.answer = b"HTTP/1.1 200 OK\r\n\r\n"
            await until(lambda: outlet.status()["sent"] == 1)
            await outlet.close(1)
        assert server.requests[0].body == server.requests[-1].body
        assert outlet.status() == {"sent": 1, "dropped": 0, "queued": 0, "error": ""}

    run(scenario)


def test_a_body_that_is_refused_is_dropped() -> None:
    async def scenario() -> None:
        server = HttpServer()
        server.answer = b"HTTP/1.1 400 Bad\r\n\r\n"
        async with server.listening():
            outlet = Outlet("w", WebhookSink(Webhook(url=f"http://127.0.0.1:{server.port}/")), print)
            outlet.put(item(1))
            await until(lambda: outlet.status()["dropped"] == 1)
            assert outlet.status()["error"] == "refused with 400"
            server.answer = b"HTTP/1.0 200 OK\r\n\r\n"
            outlet.put(item(2))
            await until(lambda: outlet.status()["sent"] == 1)
            await outlet.close(1)
        assert len(server.requests) == 2

    run(scenario)


def test_one_that_is_not_there_yet_is_waited_for() -> None:
    async def scenario() -> None:
        server = HttpServer()
        async with server.listening():
            pass  # it has a port now
        outlet = Outlet("w", WebhookSink(Webhook(url=f"http://127.0.0.1:{server.port}/")), print)
        outlet.put(item(1))
        await until(lambda: "Connect" in outlet.status()["error"])
        async with server.listening():
            await until(lambda: outlet.status()["sent"] == 1)
        await outlet.close(1)

    run(scenario)


def test_only_a_server_that_proves_its_name_gets_alerts(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)

    async def scenario() -> None:
        server = HttpServer()
        async with server.listening(tls):
            outlets = [
                Outlet("w", WebhookSink(Webhook(url=f"https://{name}:{server.port}/", ca_file=ca)), print)
                for name, ca in (("localhost", None), ("127.0.0.1", cert), ("localhost", cert))
            ]
            for outlet in outlets:
                outlet.put(item(1))
            *strangers, known = outlets
            await until(lambda: known.status()["sent"] == 1)
            for outlet in strangers:
                await until(lambda outlet=outlet: "certificate verify" in outlet.status()["error"].lower())  # type: ignore[misc]
            for outlet in outlets:
                await outlet.close(0)
        assert len(server.requests) == 1

    run(scenario)


def test_a_secret_that_others_may_read_is_none(tmp_path: Path) -> None:
    path = secret(tmp_path, 0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        read_secret(path)

    async def scenario() -> None:
        server = HttpServer()
        async with server.listening():
            settings = Webhook(url=f"http://127.0.0.1:{server.port}/", secret_file=path)
            outlet = Outlet("w", WebhookSink(settings), print)
            outlet.put(item(1))
            await until(lambda: "root alone" in outlet.status()["error"])
            assert server.requests == []
            path.chmod(0o400)
            await until(lambda: server.requests)
            await outlet.close(1)

    run(scenario)


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "ftp://example.com/", "https://", "https://a:b@example.com/", "https://x/ y",
     "https://x:y/", "https://x/\r\nHost: y", "http://127.0.0.1.evil.test/"],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        WebhookSink(Webhook(url=url))


def test_urls_that_are_taken() -> None:
    assert Target.parse("https://[fd00::1]:8443/a?b=c") == (
        ("fd00::1", 8443), "[fd00::1]:8443", "/a?b=c", True
    )  # fmt: skip
    assert Target.parse("http://localhost").path == "/"
    assert Target.parse("https://hooks.test").address == ("hooks.test", 443)


@given(st.binary(max_size=300))
def test_any_answer_is_read_or_refused(answer: bytes) -> None:
    async def scenario() -> None:
        reader = asyncio.StreamReader(limit=64)
        reader.feed_data(answer)
        reader.feed_eof()
        with contextlib.suppress(ConnectionError):
            assert 200 <= await http._status(reader) <= 999

    run(scenario)
