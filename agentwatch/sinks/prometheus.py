"""The metrics over HTTP, for Prometheus to scrape: GET /metrics on the loopback interface."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from agentwatch.config.sinks import Prometheus
from agentwatch.sinks.address import Address
from agentwatch.sinks.metrics import CONTENT_TYPE

CONNECTIONS: Final = 16  # at once; the oldest goes when one more comes
_HEAD: Final = 8192  # bytes of a request
_SECONDS: Final = 5.0  # for a request and its answer
_RETRY: Final = 5.0  # seconds until a port that was taken is tried again


class PrometheusEndpoint:
    """Serves `render()`, and tells `scraped` of each time it did. Any local process may ask."""

    def __init__(
        self,
        settings: Prometheus,
        render: Callable[[], str],
        scraped: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._address = Address.parse(settings.listen)
        if not self._address.loopback:
            raise ValueError(f"{settings.listen} is no address of the loopback interface")
        self._render, self._scraped, self._say = render, scraped, say
        self._served = self._dropped = 0
        self._error = ""
        self._connections: dict[asyncio.StreamWriter, None] = {}
        self._task = asyncio.ensure_future(self._run())

    def status(self) -> dict[str, Any]:
        """As of other sinks: scrapes answered, and connections that were cut for others."""
        queued = len(self._connections)
        return {"sent": self._served, "dropped": self._dropped, "queued": queued, "error": self._error}

    async def _run(self) -> None:
        while True:
            try:
                server = await asyncio.start_server(
                    self._serve, self._address.host, self._address.port, limit=_HEAD
                )
            except OSError as error:
                if not self._error:
                    self._say(f"sink prometheus: {error.strerror}; it is tried again")
                self._error = str(error.strerror)
                await asyncio.sleep(_RETRY)
                continue
            self._error = ""
            async with server:
                await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS:
            next(iter(self._connections)).transport.abort()
            self._dropped += 1
        self._connections[writer] = None
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError, EOFError, asyncio.LimitOverrunError):
                await asyncio.wait_for(self._answer(reader, writer), _SECONDS)
        finally:
            self._connections.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", "GET it\n"
        elif path != b"/metrics":
            status, body = "404 Not Found", "metrics are at /metrics\n"
        else:
            status, body = "200 OK", self._render()
            self._served += 1
            self._scraped()
        data = body.encode("utf-8", "backslashreplace")
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(data)}\r\n"
            "Connection: close\r\n\r\n".encode("ascii")
            + (b"" if method == b"HEAD" else data)
        )
        await writer.drain()
        writer.write_eof()
        while await reader.read(_HEAD):  # until it has taken all: an abort before could cut the answer
            pass

    async def close(self) -> None:
        """Stop serving."""
        self._task.cancel()
        for writer in list(self._connections):
            writer.transport.abort()
        await asyncio.wait([self._task])
