"""What runs already when watching begins: processes from the task iterator and /proc, sockets from
the kernel's socket diagnosis (netlink SOCK_DIAG). All of it becomes records, like everything else.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from agentwatch.schema.events import Type
from agentwatch.sources.kernel import KernelSource

_LISTEN = 10  # enum in include/net/tcp_states.h: TCP_LISTEN
_ARGV_READ = 128 << 10  # bytes
_SOCKET_LINK = re.compile(r"socket:\[(\d+)\]")

Task = tuple[int, int, int, int]  # pid, parent, start, parent's start


def note_tasks(source: KernelSource, agent: int, tasks: list[Task]) -> None:
    """A record for each process that the task iterator found."""
    for pid, parent, start, parent_start in tasks:
        folder = f"/proc/{pid}"
        uid, gid = _ids(folder)
        fields = (
            parent,
            parent_start,
            _link(f"{folder}/exe"),
            _argv(folder),
            _link(f"{folder}/cwd"),
            uid,
            gid,
        )
        source.note(Type.PROCESS, agent, *fields, tgid=pid, start=start)


def note_sockets(source: KernelSource, agent: int, tasks: list[Task]) -> None:
    """A record for each inet or Unix socket that these processes hold open.

    Sockets are looked up in the network namespace of this process: those of processes in
    other namespaces are seen from their first packet on.
    """
    owners = {inode: (pid, start) for pid, _, start, _ in tasks for inode in _socket_inodes(pid)}
    if not owners:
        return
    for inode, fields in _diagnosis():
        owner = owners.get(inode)
        if owner is not None:
            source.note(Type.SOCKET_SEEN, agent, *fields, tgid=owner[0], start=owner[1])


def _link(path: str) -> str:
    with suppress(OSError):
        return os.readlink(path)
    return ""


def _argv(folder: str) -> tuple[str, ...]:
    with suppress(OSError), open(f"{folder}/cmdline", "rb") as file:  # noqa: PTH123 (one syscall, no object)
        data = file.read(_ARGV_READ)
        return tuple(part.decode("utf-8", "backslashreplace") for part in data.split(b"\0")[:-1])
    return ()


def _ids(folder: str) -> tuple[int, int]:
    with suppress(OSError):
        status = os.stat(folder)  # noqa: PTH116 (as above)
        return status.st_uid, status.st_gid
    return 0, 0


def _socket_inodes(pid: int) -> Iterator[int]:
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            found = _SOCKET_LINK.fullmatch(_link(entry.path))
            if found:
                yield int(found[1])


def _diagnosis() -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(inode, fields of `socket_seen`) of every TCP, UDP and Unix socket of this network namespace."""
    from pyroute2 import DiagSocket  # type: ignore[import-untyped]  # noqa: PLC0415 (0.1 s to import, and only needed here)

    with DiagSocket() as diag:
        diag.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for protocol, socktype in ((socket.IPPROTO_TCP, 1), (socket.IPPROTO_UDP, 2)):
                for one in diag.get_sock_stats(family=family, protocol=protocol):
                    yield one["idiag_inode"], _inet(one, int(family), socktype, int(protocol))
        for one in diag.get_sock_stats(family=socket.AF_UNIX):
            yield one["udiag_ino"], _unix(one)


def _inet(one: Any, family: int, socktype: int, protocol: int) -> tuple[Any, ...]:
    state = "listen" if one["idiag_state"] == _LISTEN else "established" if one["idiag_dport"] else "open"
    local, remote = (socket.inet_pton(family, one[name]) for name in ("idiag_src", "idiag_dst"))
    ports = one["idiag_sport"], one["idiag_dport"]
    return one["idiag_cookie"], family, socktype, protocol, local, ports[0], remote, ports[1], state


def _unix(one: Any) -> tuple[Any, ...]:
    name = one.get_attr("UNIX_DIAG_NAME") or b""
    path = name if isinstance(name, bytes) else str(name).encode("utf-8", "surrogateescape")
    state = "listen" if one["udiag_state"] == _LISTEN else "open"
    return one["udiag_cookie"], int(socket.AF_UNIX), one["udiag_type"], 0, path, 0, b"", 0, state
