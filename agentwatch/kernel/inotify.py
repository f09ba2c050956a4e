"""inotify(7): Python has none. On cgroupfs it tells of directories that come and of `cgroup.events`."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

MODIFY: Final = 0x2
CREATE: Final = 0x100
IS_DIRECTORY: Final = 0x40000000
OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT: Final = struct.Struct("=iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Notice(NamedTuple):
    """What happened to `path`, which is the file's or directory's that is meant."""

    path: Path
    mask: int


class Inotify:
    """Watches on paths. Those that are gone are forgotten."""

    def __init__(self) -> None:
        self._fd: int = _libc.inotify_init1(_FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._paths: dict[int, Path] = {}

    def fileno(self) -> int:
        return self._fd

    def watch(self, path: Path, mask: int) -> bool:
        """Watch a path; False where it is gone or no more can be watched."""
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if number >= 0:
            self._paths[number] = path
        return number >= 0

    def read(self) -> Iterator[Notice]:
        """What has happened, in order."""
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, offset)
                name = data[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0")
                offset += _EVENT.size + length
                if mask & _IGNORED:
                    self._paths.pop(number, None)
                elif mask & OVERFLOW:
                    yield Notice(Path(), OVERFLOW)
                elif number in self._paths:
                    yield Notice(self._paths[number] / os.fsdecode(name), mask)

    def close(self) -> None:
        os.close(self._fd)
