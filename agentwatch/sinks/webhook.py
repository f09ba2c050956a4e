"""Alerts to an HTTPS endpoint, as signed JSON.

The body is `{"version": 1, "host": NAME, "alerts": [...]}`. With a secret, `Agentwatch-Signature` is
`t=UNIX SECONDS,v1=HEX`: the HMAC-SHA256 of the seconds as written, a dot, and the body. What was
not answered with 2xx comes again, so an alert may come twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import stat
import time
from collections import deque
from pathlib import Path

from agentwatch.config.sinks import Webhook
from agentwatch.sinks.address import tls_context
from agentwatch.sinks.http import Target, post
from agentwatch.sinks.outlet import Item
from agentwatch.sinks.worker import Worker

_SECRET_LIMIT = 4096  # bytes


def signature(secret: bytes, seconds: int, body: bytes) -> str:
    """The value of the header."""
    digest = hmac.new(secret, b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def read_secret(path: Path) -> bytes:
    """The file's content without white space around. Raises `OSError`, also where others may read it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o077:
            raise PermissionError(f"{path} must be a file that root alone may read (chmod 600)")
        secret = os.read(fd, _SECRET_LIMIT).strip()
    finally:
        os.close(fd)
    if not secret:
        raise OSError(f"{path} is empty")
    return secret


class WebhookSink:
    """One endpoint."""

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings
        self._target = Target.parse(settings.url)
        self._host = json.dumps(socket.gethostname()).encode("ascii")
        self._worker = Worker()

    async def deliver(self, batch: deque[Item]) -> None:
        """See `Sink`."""
        lines = b",\n".join(item.line for item in batch)
        body = b'{"version": 1, "host": %s, "alerts": [\n%s\n]}\n' % (self._host, lines)
        await asyncio.wait_for(self._post(body), self._settings.timeout_seconds)
        batch.clear()

    async def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if self._settings.secret_file:
            secret = await self._worker.submit(read_secret, self._settings.secret_file)
            headers["Agentwatch-Signature"] = signature(secret, int(time.time()), body)
        tls = tls_context(self._settings.ca_file) if self._target.secure else None
        await post(self._worker, self._target, headers, body, tls)

    def reopen(self) -> None:
        """Nothing stays open."""

    def close(self) -> None:
        self._worker.close()
