"""A folder of traces, kept within a size and an age."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".trace"
_OURS = re.compile(r"\d{8}T\d{6}\.\d{6}Z[A-Za-z0-9._-]*\.trace")


@dataclass(frozen=True, slots=True)
class Shelf:
    """`max_bytes` of all files together, `max_age` of each in seconds since it was last written."""

    folder: Path
    max_bytes: int
    max_age: float

    def make(self) -> None:
        """Make the folder, for root alone. Raises `OSError`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def place(self, name: str = "") -> Path:
        """A path for a trace that begins now: UTC to the microsecond, then the name."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
        return self.folder / f"{stamp}.{nanoseconds // 1000:06}Z{'-' if safe else ''}{safe}{SUFFIX}"

    def latest(self) -> Path | None:
        """The trace that was written last."""
        return max(self._files(), default=(0.0, None, 0))[1]

    def tidy(self, kept: Collection[Path] = ()) -> list[Path]:
        """Remove what is too old or too much, the oldest first, never what is in `kept`; what is gone."""
        found = sorted(self._files(), reverse=True)
        gone, total = [], 0
        for written, path, size in found:
            total += size
            is_due = total > self.max_bytes or time.time() - written > self.max_age
            if is_due and path not in kept:
                total -= size
                with suppress(OSError):
                    path.unlink()
                    gone.append(path)
        return gone

    def _files(self) -> list[tuple[float, Path, int]]:
        """When written, where, how large: of files that have a name that `place` gives."""
        files = []
        with suppress(OSError):
            for path in self.folder.iterdir():
                if not _OURS.fullmatch(path.name):
                    continue
                with suppress(OSError):
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        files.append((status.st_mtime, path, status.st_size))
        return files
