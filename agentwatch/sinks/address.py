"""Where a sink over the network connects to: names are looked up in a thread of the sink's own."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from agentwatch.sinks.worker import Worker


class Address(NamedTuple):
    """A host, by name or by number, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From host:port; IPv6 in brackets. Raises `ValueError`."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            ipaddress.IPv6Address(host)
        elif ":" in host:
            raise ValueError(f"{text}: an IPv6 address stands in brackets")
        if not (host and colon and port.isascii() and port.isdecimal() and 0 <= int(port) < 1 << 16):
            raise ValueError(f"{text} is not host:port")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether it cannot but be this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


async def look_up(worker: Worker, address: Address, type: socket.SocketKind) -> list[tuple[Any, ...]]:
    """Socket addresses with their families: (family, (number, port, ...)). Raises `OSError`."""
    found = await worker.submit(socket.getaddrinfo, address.host, address.port, 0, type)
    return [(family, where) for family, _, _, _, where in found]


async def connect(
    worker: Worker, address: Address, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream to the first of its addresses that answers, over TLS with a context. Raises `OSError`."""
    problem: OSError = OSError(f"{address.host} has no address")
    name = address.host if context else None
    for family, where in await look_up(worker, address, socket.SOCK_STREAM):
        try:
            return await asyncio.open_connection(
                where[0],
                where[1],
                family=family,
                ssl=context,
                server_hostname=name,
            )
        except OSError as error:
            problem = error
    raise problem


def tls_context(
    ca_file: Path | None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """Verifies the other side, its name too; TLS 1.2 and later. Raises `OSError` for files that fail."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file)
    return context
