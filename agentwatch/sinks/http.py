"""HTTP POST for sinks: one request a connection, verified TLS, no redirects, bounded in time and size."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from agentwatch import __version__
from agentwatch.sinks.address import Address, connect
from agentwatch.sinks.outlet import Refused
from agentwatch.sinks.worker import Worker

_OF_THE_BODY = (400, 413, 415, 422)  # the same body will not be taken another time either


class Target(NamedTuple):
    """A URL, taken apart."""

    address: Address
    authority: str  # as the Host header says it
    path: str
    secure: bool

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises `ValueError`, without the URL, which may hold a token.

        What leaves the machine is encrypted: http is for the loopback interface.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ValueError("url is no http or https URL")
        if not (url.isascii() and url.isprintable() and " " not in url):
            raise ValueError("url has characters that are to be percent-encoded")
        secure = parts.scheme == "https"
        address = Address(parts.hostname, parts.port or (443 if secure else 80))
        if not secure and not address.loopback:
            raise ValueError("http is for the loopback interface alone; use https")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(address, parts.netloc, path, secure)


async def post(
    worker: Worker, target: Target, headers: Mapping[str, str], body: bytes, context: ssl.SSLContext | None
) -> None:
    """Returns when the other side has answered 2xx.

    Raises `Refused` where it is the body that is not taken, `OSError` for all that may change. Of the
    answer nothing but the status line is read.
    """
    reader, writer = await connect(worker, target.address, context)
    try:
        head = {
            "Host": target.authority,
            "User-Agent": f"agentwatch/{__version__}",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"POST {target.path} HTTP/1.1\r\n{lines}\r\n".encode("ascii") + body)
        _judge(await _status(reader))
    finally:
        writer.transport.abort()


async def _status(reader: asyncio.StreamReader) -> int:
    while True:
        line = await _line(reader)
        version, _, rest = line.partition(b" ")
        if not (version.startswith(b"HTTP/1.") and rest[:3].isdigit()):
            raise ConnectionError("the answer is not HTTP" if line else "no answer")
        status = int(rest[:3])
        if status >= 200:
            return status
        while (await _line(reader)).strip():  # an interim answer (RFC 9110, 15.2)
            pass


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise ConnectionError("the answer has a line without end") from None


def _judge(status: int) -> None:
    if 200 <= status < 300:
        return
    if status in _OF_THE_BODY:
        raise Refused(f"refused with {status}")
    raise ConnectionError(f"answered {status}" + ("; redirects are not followed" if status < 400 else ""))
