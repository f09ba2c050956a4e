"""Alerts to a syslog receiver, as RFC 5424 has them.

Over UDP (RFC 5426), TCP (RFC 6587, with octet counting) or TLS (RFC 5425).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from agentwatch.config.sinks import FACILITIES, Syslog
from agentwatch.sinks.address import Address, connect, look_up, tls_context
from agentwatch.sinks.outlet import Item
from agentwatch.sinks.summary import SEVERITIES, facts, headline
from agentwatch.sinks.worker import Worker

STRUCTURE: Final = "agentwatch@32473"
"""SD-ID: the number is the one for documentation (RFC 5612), as agentwatch has none of its own."""

_UNACKNOWLEDGED_MS = 30_000  # a connection whose peer is silent for so long is given up


def message(alert: Mapping[str, Any], facility: int, host: str, process: int) -> bytes:
    """The message of an alert (RFC 5424, 6): its time, a line, and the facts as structured data."""
    priority = facility * 8 + SEVERITIES[alert["rule"]["level"]]
    time = alert["time"][:26] + "Z"  # six digits of a second are allowed
    data = "".join(f' {name}="{_escaped(value)}"' for name, value in facts(alert).items())
    # The byte order mark says that the text is UTF-8.
    head = f"<{priority}>1 {time} {host} agentwatch {process} alert"
    text = f"{head} [{STRUCTURE}{data}] \ufeff{headline(alert)}"
    return text.encode("utf-8", "backslashreplace")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


class SyslogSink:
    """Keeps a connection, and makes a new one when it fails.

    Syslog has no acknowledgement: what a receiver had in its buffers when it died is lost unseen.
    """

    def __init__(self, settings: Syslog) -> None:
        self._settings = settings
        self._address = Address.parse(settings.address)
        self._facility = FACILITIES.index(settings.facility)
        self._host = _host_name()
        self._worker = Worker()
        self._datagrams: socket.socket | None = None
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def deliver(self, batch: deque[Item]) -> None:
        """See `Sink`."""
        send = self._send_datagrams if self._settings.transport == "udp" else self._send_stream
        try:
            await send(batch)
        except BaseException:
            self._disconnect()
            raise

    async def _send_datagrams(self, batch: deque[Item]) -> None:
        if self._datagrams is None:
            family, where = (await look_up(self._worker, self._address, socket.SOCK_DGRAM))[0]
            self._datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._datagrams.connect(where)
        while batch:
            await asyncio.get_running_loop().sock_sendall(self._datagrams, self._message(batch[0]))
            batch.popleft()

    async def _send_stream(self, batch: deque[Item]) -> None:
        reader, writer = self._stream or await self._connect()
        if reader.at_eof() or writer.is_closing():
            raise ConnectionResetError("the receiver has closed the connection")
        for item in batch:
            data = self._message(item)
            writer.write(b"%d " % len(data) + data)
        await writer.drain()
        batch.clear()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        one = self._settings
        tls = tls_context(one.ca_file, one.cert_file, one.key_file) if one.transport == "tls" else None
        self._stream = await connect(self._worker, self._address, tls)
        _, writer = self._stream
        plain: socket.socket = writer.get_extra_info("socket")
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        writer.transport.set_write_buffer_limits(high=0)  # `drain` returns when the kernel has it all
        return self._stream

    def _message(self, item: Item) -> bytes:
        return message(item.alert, self._facility, self._host, os.getpid())

    def reopen(self) -> None:
        """A connection lasts."""

    def _disconnect(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
            self._datagrams = None
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None

    def close(self) -> None:
        if self._stream is not None:
            self._stream[1].close()  # in order: what was written arrives
            self._stream = None
        self._disconnect()
        self._worker.close()


def _host_name() -> str:
    name = socket.gethostname()[:255]
    return name if name.isascii() and name.isprintable() and " " not in name and name else "-"
