"""What runs already when watching begins: processes from the task iterator and /proc, sockets from
their own descriptors. All of it becomes records, like everything else. A tree can be big and its
machine busy, so stock is taken in steps, between which other agents' events are folded.

A socket is looked at through a copy of its descriptor (pidfd_getfd(2)), whatever network namespace
it lives in. Its owner is told to the probes, too: hooks below the socket layer see no process.
Not seen is the traffic of a socket that was made before its process entered the cgroup: the kernel
counts a socket to the cgroup that it was made in.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentwatch.kernel.bpf import BpfError
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.probes import Probes
from agentwatch.schema.events import ExecFlag, Type
from agentwatch.sources.kernel import KernelSource

_ARGV_READ = 128 << 10  # bytes
_DESCRIPTORS_A_STEP = 32
_SYS_PIDFD_GETFD = 438  # the same on every architecture
_SO_COOKIE = 57
_SOCKET_LINK = re.compile(r"socket:\[\d+\]")
_DELETED = " (deleted)"
_libc = ctypes.CDLL(None)

Task = tuple[int, int, int, int]  # pid, parent, start, parent's start


class Inventory:
    """Takes stock of an agent, and of who joins it from outside (a container's `exec`, for one)."""

    def __init__(self, source: KernelSource, probes: Probes, agent: int, cgroup: Cgroup) -> None:
        self._source, self._probes, self._agent, self._cgroup = source, probes, agent, cgroup
        self._tasks: list[Task] = []
        self._sockets: set[int] = set()
        self.time: int | None = None  # what notes carry, ns since boot: where None, that of their making

    def take(self) -> Iterator[None]:
        """Tag all tasks, then note the processes that had no tag, with their sockets, one a step."""
        tasks = self._probes.tag_cgroup(self._agent, self._cgroup.id)
        # Those that have ended and wait for their parent are no members.
        members = set(self._cgroup.processes()) if tasks else set()
        # A socket that several hold belongs to the oldest of them, which made it.
        self._tasks = sorted((task for task in tasks if task[0] in members), key=lambda task: task[2])
        for task in self._tasks:
            pid, parent, _, parent_start = task
            self._note(Type.PROCESS, task, (parent, parent_start, *_facts(Path(f"/proc/{pid}"))))
            yield from self._note_sockets(task)

    def look_again(self) -> Iterator[None]:
        """Note the sockets that the processes found last have made meanwhile."""
        for task in self._tasks:
            yield from self._note_sockets(task)

    def _note(self, type: Type, task: Task, fields: tuple[Any, ...]) -> None:
        self._source.note(type, self._agent, *fields, tgid=task[0], start=task[2], time=self.time)

    def _note_sockets(self, task: Task) -> Iterator[None]:
        pid, _, start, _ = task
        for one in _sockets(pid):
            if one is None:
                yield
                continue
            with one, suppress(OSError, BpfError):  # it may be closed under our hands
                (cookie,) = struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))
                if cookie in self._sockets:
                    continue
                self._sockets.add(cookie)
                fields = _described(one, cookie)
                self._note(Type.SOCKET_SEEN, task, fields)
                if one.family in (socket.AF_INET, socket.AF_INET6):
                    _, family, kind, protocol, local, local_port, remote, remote_port, _ = fields
                    block = (cookie, local, remote, local_port, remote_port, family, kind, protocol, 0)
                    self._probes.own_socket(one.fileno(), block, (pid, start))


def _facts(folder: Path) -> tuple[str, tuple[str, ...], str, int, int, int, int, int]:
    """The fields of `process` but for the parent."""
    exe, flags = _link(folder / "exe"), 0
    if exe.endswith(_DELETED):
        exe = exe.removesuffix(_DELETED)
        flags |= ExecFlag.MEMFD | ExecFlag.DELETED if exe.startswith("/memfd:") else ExecFlag.DELETED
    argv, whole = _argv(folder)
    return exe, argv, _link(folder / "cwd"), *_ids(folder), flags, int(not whole)


def _link(path: Path) -> str:
    with suppress(OSError):
        return os.fsencode(path.readlink()).decode("utf-8", "backslashreplace")
    return ""


def _argv(folder: Path) -> tuple[tuple[str, ...], bool]:
    """The arguments as they are now: a process may have overwritten them. And whether that is all."""
    data = b""
    with suppress(OSError), (folder / "cmdline").open("rb") as file:
        data = file.read(_ARGV_READ + 1)
    parts = data[:_ARGV_READ].removesuffix(b"\0").split(b"\0") if data else []
    return tuple(part.decode("utf-8", "backslashreplace") for part in parts), len(data) <= _ARGV_READ


def _ids(folder: Path) -> tuple[int, int, int]:
    """Real and effective user id and real group id, from /proc/PID/status."""
    ids = {"Uid": ("0", "0"), "Gid": ("0", "0")}
    with suppress(OSError):
        for line in (folder / "status").read_bytes().splitlines():
            name, _, values = line.decode("ascii", "replace").partition(":")
            if name in ids:
                real, effective, *_ = values.split()
                ids[name] = real, effective
    return int(ids["Uid"][0]), int(ids["Uid"][1]), int(ids["Gid"][0])


def _sockets(pid: int) -> Iterator[socket.socket | None]:
    """A copy of each IPv4, IPv6 and Unix socket that a process holds; the caller closes it.

    None in between, every few descriptors: the caller may do something else.
    """
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            for place, name in enumerate(os.listdir(f"/proc/{pid}/fd")):  # noqa: PTH208 (names, not paths)
                if place % _DESCRIPTORS_A_STEP == 0:
                    yield None
                if _SOCKET_LINK.fullmatch(_link(Path(f"/proc/{pid}/fd/{name}"))):
                    yield from _copy(pidfd, int(name))
        finally:
            os.close(pidfd)


def _copy(pidfd: int, number: int) -> Iterator[socket.socket]:
    fd = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        return  # closed meanwhile
    try:
        found = socket.socket(fileno=fd)
    except OSError:  # something else has its number meanwhile
        os.close(fd)
        return
    if found.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        yield found
    else:  # sweeps report the others
        found.close()


def _described(one: socket.socket, cookie: int) -> tuple[Any, ...]:
    """The fields of `socket_seen`."""
    local, local_port = _endpoint(one.family, one.getsockname())
    remote, remote_port, state = b"", 0, "open"
    try:
        remote, remote_port = _endpoint(one.family, one.getpeername())
        state = "established"
    except OSError:  # not connected
        if one.family != socket.AF_UNIX:
            remote = bytes(len(local))
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            state = "listen"
    kind, protocol = one.type & 0xF, one.proto
    return cookie, int(one.family), kind, protocol, local, local_port, remote, remote_port, state


def _endpoint(family: int, name: Any) -> tuple[bytes, int]:
    if family == socket.AF_UNIX:
        return name if isinstance(name, bytes) else os.fsencode(name), 0
    return socket.inet_pton(family, name[0].partition("%")[0]), name[1]
