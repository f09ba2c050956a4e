"""Notices of programs that begin, from the kernel's process connector (Documentation/driver-api/connector).

Needs CAP_NET_ADMIN, the initial network namespace and CONFIG_PROC_EVENTS.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final

_NETLINK_CONNECTOR: Final = 11
_CN_IDX_PROC: Final = 1
_LISTEN: Final = 1  # PROC_CN_MCAST_LISTEN
_EXEC: Final = 2  # PROC_EVENT_EXEC
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_MESSAGE: Final = struct.Struct("=IIIIHH")  # struct cn_msg: id, seq, ack, len, flags
_EVENT: Final = struct.Struct("=IIQII")  # what, cpu, time; of an exec: thread, process
_AT: Final = _HEADER.size + _MESSAGE.size
_BUFFER: Final = 4 << 20  # bytes: a storm of forks sends a notice for each
_SO_RCVBUFFORCE: Final = 33
_NLMSG_DONE: Final = 3


class ProcEvents:
    """The connector. Raises `OSError` where this kernel or this process cannot use it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            _NETLINK_CONNECTOR,
        )  # fmt: skip
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._socket.bind((0, _CN_IDX_PROC))
            body = struct.pack("=I", _LISTEN)
            message = _MESSAGE.pack(_CN_IDX_PROC, 1, 0, 0, len(body), 0) + body
            self._socket.send(
                _HEADER.pack(_HEADER.size + len(message), _NLMSG_DONE, 0, 0, os.getpid()) + message
            )
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> tuple[set[int], bool]:
        """Ids of processes that have begun a program, and whether notices were lost."""
        found: set[int] = set()
        lost = False
        while True:
            try:
                data, (sender, _) = self._socket.recvfrom(4096)
            except BlockingIOError:
                return found, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if sender == 0 and len(data) >= _AT + _EVENT.size:  # the kernel's own
                what, _, _, _, process = _EVENT.unpack_from(data, _AT)
                if what == _EXEC:
                    found.add(process)

    def close(self) -> None:
        self._socket.close()
