"""Alerts in a file of JSON lines that is rotated, here or by logrotate."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from agentwatch.config.sinks import Jsonl
from agentwatch.sinks.alerts import AlertFile
from agentwatch.sinks.outlet import Item
from agentwatch.sinks.worker import Worker


class RotatedFile:
    """The file and those before it: PATH, PATH.1, PATH.2, ... Every call may wait for the disk."""

    def __init__(self, settings: Jsonl) -> None:
        self._settings = settings
        self._path = settings.path
        self._stream: FileIO | None = None
        self._file: AlertFile | None = None

    def write(self, line: bytes) -> None:
        """Append a line. Raises `OSError`; the line is then to be written again."""
        if self._stream is not None and self._moved():
            self.close()
        file = self._file or self._open()
        if self._is_full(len(line) + 1):
            self._rotate()
            file = self._open()
        file.write_line(line)

    def _open(self) -> AlertFile:
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        stream = FileIO(os.open(self._path, flags, 0o640), "r+")
        size = os.fstat(stream.fileno()).st_size
        torn = size > 0 and os.pread(stream.fileno(), 1, size - 1) != b"\n"
        self._stream, self._file = stream, AlertFile(stream, torn=torn)
        return self._file

    def _moved(self) -> bool:
        """Whether the path is another file by now, or none."""
        assert self._stream is not None
        try:
            there, ours = self._path.stat(), os.fstat(self._stream.fileno())
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, ours)

    def _is_full(self, more: int) -> bool:
        """Whether the file is to be rotated first. The span that it belongs to is that of its last line."""
        assert self._stream is not None
        stat, span = os.fstat(self._stream.fileno()), self._settings.rotate_seconds
        old = span > 0 and int(time.time()) // span > int(stat.st_mtime) // span
        return stat.st_size > 0 and (old or stat.st_size + more > self._settings.rotate_bytes)

    def _rotate(self) -> None:
        self.close()
        keep = self._settings.keep
        for number in range(keep, 0, -1):
            newer = self._path if number == 1 else self._numbered(number - 1)
            if newer.exists():
                newer.replace(self._numbered(number))
        if keep == 0:
            self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def close(self) -> None:
        """Close; the next line opens it again."""
        if self._stream is not None:
            self._stream.close()
        self._stream = self._file = None


class JsonlSink:
    """Writes in a thread: a disk that hangs holds up nothing but this sink."""

    def __init__(self, settings: Jsonl) -> None:
        self._file = RotatedFile(settings)
        self._worker = Worker()
        self._writing: asyncio.Future[tuple[int, Exception | None]] | None = None

    async def deliver(self, batch: deque[Item]) -> None:
        """See `Sink`. What a disk that hung has written in the end is not written twice."""
        if self._writing is None:
            self._writing = self._worker.submit(self._write, [item.line for item in batch])
        written, error = await asyncio.shield(self._writing)
        self._writing = None
        for _ in range(written):
            batch.popleft()
        if error is not None:
            raise error

    def _write(self, lines: Sequence[bytes]) -> tuple[int, Exception | None]:
        for number, line in enumerate(lines):
            try:
                self._file.write(line)
            except Exception as error:
                return number, error
        return len(lines), None

    def reopen(self) -> None:
        self._worker.submit(self._file.close)

    def close(self) -> None:
        self._worker.submit(self._file.close)
        self._worker.close()
