"""Agents' directories in cgroup v2, wherever it is mounted (unified, or hybrid below the v1 mounts).

Agents live in `<mount>/agentwatch/<name>`. Whoever made one holds a lock on its directory, so
that what a crashed instance left behind is told from what another one uses.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from agentwatch.kernel.errors import KernelError

PARENT = "agentwatch"
_MOUNTS = Path("/proc/self/mounts")
_DELETED = " (deleted)"
_ROOT = "the root cgroup holds the whole host: an agent in it cannot be told apart or paused"
_OURS = "agentwatch itself runs in {path}, and would be paused with the agent"
_INSTEAD = (
    "Give the agent a cgroup of its own: start it with `agentwatch run`, or move it "
    "(mkdir {mount}/NAME; echo PID > {mount}/NAME/cgroup.procs) and attach to that; "
    "connections that it had before the move stay unseen."
)
_REMOVE_SECONDS = 5.0
_LOCK_SECONDS = 10.0  # it is held for a few system calls at a time
_PAUSE = 0.002  # seconds between looks at a cgroup that empties
_PRIVATE = 0o700  # who could open a directory could hold its lock
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CgroupError(KernelError):
    """cgroup v2 is not there, or an agent's directory cannot be made."""


def find_mount(mounts: Path = _MOUNTS) -> Path:
    """Where cgroup v2 is mounted. Raises `CgroupError` where it is not."""
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            # proc(5): blanks and backslashes in a path are octal escapes
            return Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
    raise CgroupError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def controllers(path: Path) -> set[str]:
    """The resource controllers that cgroup v2 has for a directory (cgroup.controllers). Raises `OSError`.

    Those of the mount's root are all that the kernel has given to version 2; the rest are version 1's.
    """
    return set((path / "cgroup.controllers").read_text(encoding="ascii").split())


class Cgroup:
    """One directory of cgroup v2, held open: it is acted on by descriptor, never by a path again."""

    def __init__(self, path: Path, *, made: bool, name: str = "") -> None:
        self.path = path
        self.name = name or f"{path.parent.name}/{path.name}"  # its path below the mount
        self.left = not made
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.id = os.fstat(self._fd).st_ino  # the inode number of a kernfs directory is its id
        self._events = self._open("cgroup.events", os.O_RDONLY)
        self._freeze = self._open("cgroup.freeze", os.O_WRONLY)

    def fileno(self) -> int:
        return self._fd

    def descriptors(self) -> tuple[int, ...]:
        """What must stay open for this object to work, in a forked process too."""
        return self._fd, self._events, self._freeze

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._fd)

    def events(self) -> dict[str, int]:
        """cgroup.events: `populated` and `frozen`, 0 or 1; both 0 where the directory was removed."""
        try:
            text = os.pread(self._events, 256, 0).decode("ascii")
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return {"populated": 0, "frozen": 0}
        return {key: int(value) for key, value in (line.split() for line in text.splitlines())}

    def populated(self) -> bool:
        """Whether a process lives in it or below it."""
        return bool(self.events()["populated"])

    def frozen(self) -> bool:
        """Whether every process in it has stopped."""
        return bool(self.events()["frozen"])

    def write_freeze(self, on: bool) -> None:
        """Ask the kernel to freeze or thaw all below; `frozen()` says when that is done."""
        os.pwrite(self._freeze, b"1" if on else b"0", 0)

    def write_kill(self) -> None:
        """Kill all below, frozen ones too (cgroup.kill, kernel 5.14). Raises FileNotFoundError before."""
        fd = self._open("cgroup.kill", os.O_WRONLY)
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)

    def move(self, pid: int) -> None:
        """Move a process, with all its threads, in here."""
        fd = self._open("cgroup.procs", os.O_WRONLY)
        try:
            os.write(fd, str(pid).encode())
        finally:
            os.close(fd)

    def processes(self) -> Iterator[int]:
        """Ids of the processes in here and below."""
        for folder in _walk(self._fd):
            # Inside a threaded domain only its top lists processes.
            with suppress(OSError), os.fdopen(os.open("cgroup.procs", os.O_RDONLY, dir_fd=folder)) as file:
                yield from (int(line) for line in file)

    def leave(self) -> None:
        """Let the directory stand when it is closed: its processes go on without a watch."""
        self.left = True

    def close(self) -> None:
        """Let go; a directory that was made here is removed once it is empty."""
        if self._fd < 0:
            return
        if not self.left:
            self._remove()
        for fd in (self._freeze, self._events, self._fd):
            os.close(fd)
        self._fd = -1

    def _remove(self) -> None:
        deadline = time.monotonic() + _REMOVE_SECONDS
        with suppress(CgroupError):
            while not _remove_locked(self.path) and time.monotonic() < deadline:
                time.sleep(_PAUSE)  # killed processes take a moment to go

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _remove_locked(path: Path) -> bool:
    """Remove an agent's directory, and the parent with the last; False while a process is in it."""
    with suppress(_Vanished), _locked(path.parent):
        if not remove_tree(path):
            return False
        with suppress(OSError):  # another instance may be using it
            path.parent.rmdir()
    return True


def remove_tree(path: Path) -> bool:
    """Remove an empty cgroup with what the agent made below it; False while a process is in it."""
    try:
        here = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return True
    names: list[str] = []
    try:
        while True:
            if children := _children(here):
                names.append(children[0])
                here = _step(here, names[-1])
            elif names:
                here = _step(here, "..")
                os.rmdir(names.pop(), dir_fd=here)
            else:
                path.rmdir()
                return True
    except OSError:
        return not path.exists()
    finally:
        os.close(here)


def _walk(top: int) -> Iterator[int]:
    """Descriptors of a directory and all below, parents first, each open until the next is asked for."""
    here = os.open(".", _DIRECTORY, dir_fd=top)
    pending = [_children(here)]
    try:
        yield here
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    here = _step(here, "..")
                continue
            with suppress(FileNotFoundError):  # removed meanwhile
                here = _step(here, pending[-1].pop())
                pending.append(_children(here))
                yield here
    finally:
        os.close(here)


def _step(here: int, name: str) -> int:
    """From one directory to another on one descriptor: agents may nest deeper than paths are long."""
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _children(directory: int) -> list[str]:
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []  # removed meanwhile


def create(name: str, mount: Path | None = None) -> Cgroup:
    """A new agent's directory, locked. Raises `CgroupError` where the name is taken or it cannot be made."""
    parent = (mount or find_mount()) / PARENT
    path = parent / name
    try:
        while True:
            with suppress(FileExistsError):
                parent.mkdir(mode=_PRIVATE)
            # A lookup may still find a parent that was removed a moment ago: then again from the start.
            with suppress(_Vanished, FileNotFoundError), _locked(parent):
                _sweep(parent)
                path.mkdir(mode=_PRIVATE)
                cgroup = Cgroup(path, made=True)
                fcntl.flock(cgroup.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cgroup
    except FileExistsError:
        raise CgroupError(f"an agent named {name} is watched already ({path})") from None
    except OSError as error:
        raise CgroupError(f"{path}: {error.strerror}") from None


def of_process(pid: int, mount: Path | None = None) -> Path:
    """The directory that a process is in. Raises `CgroupError`."""
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        raise CgroupError(f"there is no process {pid}") from None
    for line in text.splitlines():
        if line.startswith("0::"):  # cgroups(7): hierarchy 0 is version 2
            return (mount or find_mount()) / line[3:].removesuffix(_DELETED).lstrip("/")
    raise CgroupError(f"process {pid} is in no cgroup v2 directory")


def existing(path: Path, mount: Path | None = None) -> Cgroup:
    """A directory that somebody else made, to be watched as it is; closing leaves it.

    Raises `CgroupError`, saying what to do instead, for one that cannot be watched or paused by
    itself, that this process runs in, or that another instance watches.
    """
    mount, path = (mount or find_mount()).resolve(), path.resolve()
    if path == mount:
        raise CgroupError(f"{_ROOT}\n{_INSTEAD.format(mount=mount)}")
    if not path.is_relative_to(mount) or not (path / "cgroup.events").exists():
        raise CgroupError(f"{path} is no directory of cgroup v2, which is mounted at {mount}")
    if of_process(os.getpid(), mount).is_relative_to(path):
        raise CgroupError(f"{_OURS.format(path=path)}\n{_INSTEAD.format(mount=mount)}")
    if (path / "cgroup.type").read_text(encoding="ascii").startswith("threaded"):
        raise CgroupError(f"{path} holds threads of processes; attach to the directory above it")
    try:
        cgroup = Cgroup(path, made=False, name=str(path.relative_to(mount)))
    except OSError as error:
        raise CgroupError(f"{path}: {error.strerror}") from None
    # Others' directories are not locked: whoever may open one could keep it from being watched.
    if path.parent == mount / PARENT:
        try:
            fcntl.flock(cgroup.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cgroup.close()
            raise CgroupError(f"the agent {path.name} is watched already ({path})") from None
    return cgroup


def sweep(parent: Path) -> None:
    """Remove empty directories that nobody holds: what a killed instance left."""
    with suppress(_Vanished), _locked(parent):
        _sweep(parent)


def _sweep(parent: Path) -> None:
    for entry in list(os.scandir(parent)):
        if entry.is_dir(follow_symlinks=False):
            _sweep_one(Path(entry.path))


def _sweep_one(path: Path) -> None:
    with suppress(OSError):
        fd = os.open(path, _DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        finally:
            os.close(fd)


class _Vanished(Exception):
    """The parent is gone, or another has taken its place."""


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Hold the parent: a directory that is made but not yet locked would be swept by another instance.

    Raises `_Vanished`, or `CgroupError` where somebody keeps the lock.
    """
    try:
        fd = os.open(parent, _DIRECTORY)
    except FileNotFoundError:
        raise _Vanished from None
    try:
        _lock(fd, parent)
        if not parent.exists() or parent.stat().st_ino != os.fstat(fd).st_ino:
            raise _Vanished
        yield
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CgroupError(f"another process keeps the lock on {path}") from None
            time.sleep(_PAUSE)
