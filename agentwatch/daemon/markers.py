"""Where markers come in beside the control socket: a datagram socket and a folder of files. In the front.

A datagram is text, `NAME=VALUE` a line. Its sender's process is known by the kernel's word
(SCM_CREDENTIALS), so a process speaks for itself, or with a first line `agent` for its agent, and
for nobody else. A file has an agent's name and the same lines; only root can put one there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agentwatch import markers

RATE: Final = 500  # datagrams a second; more wait in the kernel, where their senders wait
_IN_CLOSE_WRITE, _IN_MOVED_TO = 0x8, 0x80  # include/uapi/linux/inotify.h
_CREDENTIALS = struct.Struct("3i")  # struct ucred
_EVENT = struct.Struct("iIII")  # struct inotify_event, its name behind it
_EVENTS: Final = 64 << 10  # bytes of events read at once
_libc = ctypes.CDLL(None, use_errno=True)

Tell = Callable[..., None]


class Door:
    """Tells what comes: `marks` with a process id, whether for its agent, and markers; `marked` with an
    agent's name and markers. What cannot be read is told as `failed`, files only: anybody sends datagrams.
    """

    def __init__(self, folder: Path, tell: Tell) -> None:
        """Listen at FOLDER/markers.sock, watch FOLDER/markers. Raises `OSError`."""
        self._tell = tell
        self._files = folder / "markers"
        self._path = folder / "markers.sock"
        self._left = RATE
        self._socket = _listener(self._path)
        self._files.mkdir(mode=0o755, exist_ok=True)
        self._inotify = _watch(self._files)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._receive)
        loop.add_reader(self._inotify, self._look)
        self._refill = loop.create_task(self._refills())
        for file in sorted(self._files.iterdir()):
            self._read(file.name)

    async def _refills(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self._left <= 0:
                asyncio.get_running_loop().add_reader(self._socket, self._receive)
            self._left = RATE

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while self._left > 0:
                data, ancillary, _, _ = self._socket.recvmsg(markers.TEXT_LIMIT, socket.CMSG_SPACE(64))
                self._left -= 1
                pid = _sender(ancillary)
                with suppress(ValueError):
                    self._take(pid, data.decode("utf-8", "backslashreplace"))
            asyncio.get_running_loop().remove_reader(self._socket)

    def _take(self, pid: int, text: str) -> None:
        first, _, rest = text.partition("\n")
        for_agent = first.strip() == markers.AGENT_LINE
        found = markers.parse(rest if for_agent else text)
        if pid and found:
            self._tell("marks", pid, for_agent, found)

    def _look(self) -> None:
        with suppress(BlockingIOError):
            data, at = os.read(self._inotify, _EVENTS), 0
            names: dict[str, None] = {}
            while at < len(data):
                *_, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                names[os.fsdecode(data[at : at + length].rstrip(b"\0"))] = None
                at += length
            for name in names:
                self._read(name)

    def _read(self, name: str) -> None:
        try:
            text = _content(self._files / name)
            self._tell("marked", name, markers.parse(text))
        except (OSError, ValueError) as error:
            self._tell("failed", f"markers of {name!r} cannot be read: {error}")

    def close(self) -> None:
        self._refill.cancel()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_reader(self._inotify)
        self._socket.close()
        os.close(self._inotify)
        self._path.unlink(missing_ok=True)


def _listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    listener.bind(str(path))
    path.chmod(0o666)  # who speaks is known, and speaks for himself
    return listener


def _watch(folder: Path) -> int:
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    mask = _IN_CLOSE_WRITE | _IN_MOVED_TO
    if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(folder), mask) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    return fd


def _sender(ancillary: list[tuple[int, int, Any]]) -> int:
    """The sender's process id; 0 where the kernel did not tell it."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) >= _CREDENTIALS.size:
            pid: int = _CREDENTIALS.unpack_from(data)[0]
            return pid
    return 0


def _content(path: Path) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no regular file")
        return file.read(markers.TEXT_LIMIT).decode("utf-8", "backslashreplace")
