"""Alerts in systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

A datagram holds `NAME=value` lines; one that is too large travels as a sealed memory file whose
descriptor is sent instead. python-systemd is not needed for that.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from agentwatch.config.sinks import Journald
from agentwatch.sinks.outlet import Item
from agentwatch.sinks.summary import SEVERITIES, facts, headline

MESSAGE_ID: Final = "4b1f0c5ed9a24f8db2b6a7c1e3f09d52"
"""Of every alert: `journalctl MESSAGE_ID=...`."""

_LENGTH = struct.Struct("<Q")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LARGE = (errno.EMSGSIZE, errno.ENOBUFS)


def fields(item: Item) -> dict[str, str]:
    """The journal's fields of an alert; AGENTWATCH_ALERT is the whole of it as JSON."""
    alert: Mapping[str, Any] = item.alert
    return {
        "MESSAGE": headline(alert),
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": str(SEVERITIES[alert["rule"]["level"]]),
        "SYSLOG_IDENTIFIER": "agentwatch",
        **{f"AGENTWATCH_{name.upper()}": value for name, value in facts(alert).items()},
        "AGENTWATCH_ALERT": item.line.decode("ascii"),
    }


def serialize(entry: Mapping[str, str]) -> bytes:
    """A journal entry as it travels. A value with a line break goes behind its length (u64)."""
    parts = []
    for name, text in entry.items():
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + _LENGTH.pack(len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


class JournaldSink:
    """Sends to the journal's socket; waits, in this sink alone, for one that is full."""

    def __init__(self, settings: Journald) -> None:
        self._path = settings.socket
        self._socket: socket.socket | None = None

    async def deliver(self, batch: deque[Item]) -> None:
        """See `Sink`."""
        connection = self._socket or self._connect()
        try:
            while batch:
                await _send(connection, serialize(fields(batch[0])))
                batch.popleft()
        except OSError:  # a journal that was restarted has another socket
            self.close()
            raise

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            made.connect(str(self._path))
        except OSError:
            made.close()
            raise
        self._socket = made
        return made

    def reopen(self) -> None:
        """A socket lasts."""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def _send(connection: socket.socket, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_sendall(connection, data)
        return
    except OSError as error:
        if error.errno not in _TOO_LARGE:
            raise
    memory = os.memfd_create("agentwatch-alert", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(memory, data)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(connection, [], [memory])
    finally:
        os.close(memory)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
