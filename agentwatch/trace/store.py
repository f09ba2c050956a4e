"""The files of a recording: created safely, written at known places, rotated."""

from __future__ import annotations

import os
import stat
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentwatch.trace.error import TraceError

NAME_TRIES = 100


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new file begins, and how many are kept.

    A file ends at `max_bytes` on disk or `max_age` seconds after it began. `keep` files of this
    recording are left on disk, the current one included; 0 keeps all.
    """

    max_bytes: int = 1 << 30
    max_age: float = 3600.0
    keep: int = 0


def segment_path(path: Path, segment: int) -> Path:
    """Where a recording's n-th file lies: run.awt, run.00001.awt, run.00002.awt, ..."""
    return path if segment == 0 else path.with_name(f"{path.stem}.{segment:05d}{path.suffix}")


def segment_paths(path: Path) -> list[Path]:
    """The files of the recording that began at `path`, oldest first, as far as they still exist."""
    later = f"{path.stem}.".replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") + "[0-9]" * 5
    found = sorted(path.parent.glob(later + path.suffix))
    return ([path] if path.exists() else []) + found


class SegmentFile:
    """One file that only its creator writes: mode 0600, never through a link, never over another.

    Every method may raise `OSError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._is_named = False
        # O_EXCL fails on anything that is there already, a dangling symbolic link included.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        status = os.fstat(self._fd)
        self.identity = (status.st_dev, status.st_ino)

    def fileno(self) -> int:
        return self._fd

    def links(self) -> int | None:
        """How many names the file has; None where the descriptor is no longer the file.

        A descriptor that someone closed may by now be another file, which must not be written.
        """
        try:
            status = os.fstat(self._fd)
        except OSError:
            return None
        return status.st_nlink if (status.st_dev, status.st_ino) == self.identity else None

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end, or raise with the end where it was.

        What a failed attempt left behind is overwritten by the next.
        """
        view, at = memoryview(data), self.size
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written
        self.size = at

    def sync(self) -> None:
        """Have the disk keep what was written and, once, the file's name."""
        os.fdatasync(self._fd)
        if not self._is_named:
            self._is_named = True
            with suppress(OSError):  # not every file system can, and not every folder may be read
                _sync_folder(self.path.parent)

    def close(self) -> None:
        """Cut off what a failed attempt left behind, and close; does nothing to a descriptor not ours."""
        if self.links() is None:
            return
        try:
            os.ftruncate(self._fd, self.size)
        finally:
            os.close(self._fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Segments:
    """The files of one recording that exist, and the removal of the oldest."""

    def __init__(self, path: Path, rotation: Rotation | None) -> None:
        self._path = path
        self._keep = rotation.keep if rotation else 0
        self._kept: deque[tuple[Path, tuple[int, int]]] = deque()

    def create(self, segment: int) -> tuple[SegmentFile, int]:
        """Create the n-th file, or the first after it whose name is free; remove what is now too many.

        Raises `OSError`. The first file of a recording takes no other name than its own.
        """
        for number in range(segment, segment + (NAME_TRIES if segment else 1)):
            try:
                file = SegmentFile(segment_path(self._path, number))
            except FileExistsError as error:
                taken = error
                continue
            self._kept.append((file.path, file.identity))
            while self._keep and len(self._kept) > self._keep:
                self._remove(*self._kept.popleft())
            return file, number
        raise taken

    @staticmethod
    def _remove(path: Path, identity: tuple[int, int]) -> None:
        """Remove one of our files, unless something else has taken its name."""
        try:
            status = path.lstat()
            if (status.st_dev, status.st_ino) == identity:
                path.unlink()
        except OSError:
            return


def clear_way(path: Path) -> None:
    """Remove the regular file at `path`, if there is one; refuses anything else with `TraceError`."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise TraceError(f"{path} is no regular file")
    path.unlink()
