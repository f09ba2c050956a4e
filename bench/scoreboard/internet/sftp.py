"""An SFTP server (draft-ietf-secsh-filexfer-02, version 3), as far as scp and sftp copy files.

Reads and writes in the throw-away root of the made-up internet.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

INIT, VERSION, STATUS, HANDLE, DATA, NAME, ATTRS = 1, 2, 101, 102, 103, 104, 105
OK, END, FAILURE, UNSUPPORTED = 0, 1, 4, 8
_LARGEST = 1 << 20
# Flags of OPEN -> those of open(2): read, write, append, create, truncate, exclusive
_FLAGS = ((4, os.O_APPEND), (8, os.O_CREAT), (16, os.O_TRUNC), (32, os.O_EXCL))


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _take(data: bytes, place: int = 0) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(">I", data, place)
    return data[place + 4 : place + 4 + size], place + 4 + size


def _status(code: int) -> tuple[int, bytes]:
    return STATUS, struct.pack(">I", code) + _text(b"") + _text(b"")


def _attributes(told: os.stat_result) -> bytes:
    """Size, permissions and times."""
    return struct.pack(
        ">IQIII", 1 | 4 | 8, told.st_size, told.st_mode, int(told.st_atime), int(told.st_mtime)
    )


def _realpath(body: bytes) -> tuple[int, bytes]:
    name = os.path.realpath(_take(body)[0] or b".")
    return NAME, struct.pack(">I", 1) + _text(name) + _text(name) + struct.pack(">I", 0)


def _stat(body: bytes) -> tuple[int, bytes]:
    return ATTRS, _attributes(Path(os.fsdecode(_take(body)[0])).stat())


def _fstat(body: bytes) -> tuple[int, bytes]:
    return ATTRS, _attributes(os.fstat(int(_take(body)[0])))


def _open(body: bytes) -> tuple[int, bytes]:
    name, place = _take(body)
    (wanted,) = struct.unpack_from(">I", body, place)
    mode = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR)[wanted & 3]
    flags = mode | sum(flag for bit, flag in _FLAGS if wanted & bit)
    return HANDLE, _text(str(os.open(name, flags, 0o644)).encode())


def _close(body: bytes) -> tuple[int, bytes]:
    os.close(int(_take(body)[0]))
    return _status(OK)


def _read(body: bytes) -> tuple[int, bytes]:
    handle, place = _take(body)
    offset, size = struct.unpack_from(">QI", body, place)
    data = os.pread(int(handle), min(size, 1 << 15), offset)
    return (DATA, _text(data)) if data else _status(END)


def _write(body: bytes) -> tuple[int, bytes]:
    handle, place = _take(body)
    (offset,) = struct.unpack_from(">Q", body, place)
    os.pwrite(int(handle), _take(body, place + 8)[0], offset)
    return _status(OK)


def _accept(_: bytes) -> tuple[int, bytes]:
    return _status(OK)


# fxp numbers: 9 and 10 set attributes, which nobody looks at here.
_REQUESTS: dict[int, Callable[[bytes], tuple[int, bytes]]] = {
    3: _open,
    4: _close,
    5: _read,
    6: _write,
    7: _stat,
    8: _fstat,
    9: _accept,
    10: _accept,
    16: _realpath,
    17: _stat,
}


def reply(message: bytes) -> bytes:
    """The answer to a request, without its length."""
    if message[:1] == bytes([INIT]):
        return struct.pack(">BI", VERSION, 3)
    number, body = message[1:5], message[5:]
    kind, content = _status(UNSUPPORTED)
    if handle := _REQUESTS.get(message[0]):
        kind, content = _status(FAILURE)
        with suppress(OSError, ValueError, struct.error):
            kind, content = handle(body)
    return bytes([kind]) + number + content


def main() -> None:
    """Serve standard input until it ends."""
    while len(head := sys.stdin.buffer.read(4)) == 4:
        (size,) = struct.unpack(">I", head)
        if not 0 < size <= _LARGEST:
            break
        sys.stdout.buffer.write(_text(reply(sys.stdin.buffer.read(size))))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
