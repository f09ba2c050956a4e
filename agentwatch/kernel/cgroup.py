"""Control groups, version 2: where they are mounted, and the folder that holds one agent.

An agent's folder is `<mount>/agentwatch/<name>`. Whoever watches it holds a lock (flock) on the
folder, so that another instance can tell a live one from one that a crash left behind. Folders
that agentwatch made carry an extended attribute; others are never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType

PARENT = "agentwatch"
"""The folder below the mount that holds all agents of all instances."""

_MARK = "user.agentwatch"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LOCK_LIMIT = 10  # seconds; the parent is locked for a few system calls at a time
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CgroupError(Exception):
    """There is no cgroup v2, or the agent's folder cannot be made or removed."""


def find_mount(mounts: Path = Path("/proc/self/mounts")) -> Path:
    """Where cgroup v2 is mounted, alone or beside version 1 (hybrid). Raises `CgroupError`."""
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), where))
    raise CgroupError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")


def path_of(pid: int | str = "self") -> Path:
    """The folder of the cgroup that a process is in. Raises `CgroupError` or `ProcessLookupError`."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from None
    for line in lines.splitlines():
        if line.startswith("0::"):
            return find_mount() / line[3:].lstrip("/")
    raise CgroupError("this kernel has no cgroup v2")


class Cgroup:
    """An open cgroup folder. Its files are reached through the descriptor, whatever happens to its name."""

    def __init__(self, path: Path) -> None:
        """Open an existing folder. Raises `OSError`."""
        self.path = path
        self._fd = os.open(path, _DIRECTORY)
        self.id = os.fstat(self._fd).st_ino
        """What bpf_get_current_cgroup_id() and bpf_skb_cgroup_id() give for its members."""

    def fileno(self) -> int:
        """The folder's descriptor, for `bpf.attach_cgroup`."""
        return self._fd

    def close(self) -> None:
        """Let go of the folder and of the lock on it; again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of one of the folder's interface files. Raises `OSError`."""
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._fd)

    def move(self, pid: int) -> None:
        """Bring a process in with all its threads; 0 is the caller. Raises `ProcessLookupError`."""
        fd = self.open_file("cgroup.procs", os.O_WRONLY)
        try:
            os.write(fd, b"%d" % pid)
        finally:
            os.close(fd)

    def populated(self) -> bool:
        """Whether a live process is in it or below it; zombies do not count."""
        return b"populated 1" in _read(self._fd, "cgroup.events")

    def pids(self) -> list[int]:
        """The processes in it and below it, numbered as this process's PID namespace does."""
        found = []
        for fd in _walk(self._fd):
            # Inside a threaded domain only its top lists processes.
            with suppress(OSError):
                found += [int(pid) for pid in _read(fd, "cgroup.procs").split()]
        return [pid for pid in found if pid]

    def descendants(self) -> list[int]:
        """The ids of the cgroups below it."""
        return [os.fstat(fd).st_ino for fd in _walk(self._fd)][1:]

    def remove(self) -> None:
        """Remove it and what is below it, and the parent once it is empty and agentwatch's.

        Closes the folder. Raises `CgroupError` while a process is in it.
        """
        with suppress(_Vanished), _locked_parent(self.path.parent) as parent:
            try:
                _remove_tree(self._fd, self.path.name, parent)
            except OSError as error:
                raise CgroupError(f"{self.path} cannot be removed: {error.strerror}") from error
            _remove_parent(self.path.parent, parent)
        self.close()


def create(name: str, mount: Path | None = None) -> Cgroup:
    """Make and lock the folder of a new agent. Raises `CgroupError`, also where the name is in use."""
    if not _NAME.fullmatch(name) or name.startswith("cgroup."):
        raise CgroupError(f"{name!r} is not a name for an agent: letters, digits, '_', '.', '-'; at most 64")
    path = (mount or find_mount()) / PARENT / name
    try:
        while True:
            with suppress(FileExistsError):
                path.parent.mkdir(mode=0o700)  # who could open it could hold its lock
                os.setxattr(path.parent, _MARK, b"")
            with suppress(_Vanished), _locked_parent(path.parent) as parent:
                return _create_locked(path, parent)
    except OSError as error:
        raise CgroupError(f"{path} cannot be made: {error.strerror}") from error


def _create_locked(path: Path, parent: int) -> Cgroup:
    if path.exists():
        state = _remove_stale(path, parent)
        if state is not _Stale.REMOVED:
            raise CgroupError(f"{path} exists and {state.value}")
    path.mkdir(mode=0o700)
    os.setxattr(path, _MARK, b"")
    cgroup = Cgroup(path)
    fcntl.flock(cgroup.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return cgroup


@dataclass(frozen=True, slots=True)
class Swept:
    """Names of what a crash had left behind: `removed`, and `populated` for those that still run."""

    removed: tuple[str, ...] = ()
    populated: tuple[str, ...] = ()


def sweep_stale(mount: Path | None = None) -> Swept:
    """Remove agents' folders that nobody watches any more. Those that hold processes are left alone."""
    folder = (mount or find_mount()) / PARENT
    found: dict[_Stale, list[str]] = {state: [] for state in _Stale}
    with suppress(_Vanished), _locked_parent(folder) as parent:
        for path in sorted(path for path in folder.iterdir() if path.is_dir()):
            found[_remove_stale(path, parent)].append(path.name)
        _remove_parent(folder, parent)
    return Swept(tuple(found[_Stale.REMOVED]), tuple(found[_Stale.POPULATED]))


class _Stale(Enum):
    REMOVED = "was left behind"
    WATCHED = "is being watched"
    POPULATED = "still holds processes of an earlier agent"
    FOREIGN = "is not agentwatch's"


def _remove_stale(path: Path, parent: int) -> _Stale:
    """Remove an agent's folder unless there is a reason not to. The parent is locked."""
    if not _is_ours(path):
        return _Stale.FOREIGN
    with Cgroup(path) as cgroup:
        try:
            fcntl.flock(cgroup.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _Stale.WATCHED
        if cgroup.populated():
            return _Stale.POPULATED
        _remove_tree(cgroup.fileno(), path.name, parent)
    return _Stale.REMOVED


class _Vanished(Exception):
    """The parent folder is gone, or another has taken its place."""


@contextmanager
def _locked_parent(path: Path) -> Iterator[int]:
    """The parent's descriptor, locked: instances make and remove folders below it one at a time.

    Raises `_Vanished`.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        raise _Vanished from None
    try:
        _lock(fd, path)
        if not path.exists() or path.stat().st_ino != os.fstat(fd).st_ino:
            raise _Vanished
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_LIMIT
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CgroupError(f"another process holds the lock on {path}") from None
            time.sleep(0.005)


def _is_ours(path: Path | int) -> bool:
    try:
        return os.getxattr(path, _MARK) == b""
    except OSError:
        return False


def _remove_parent(path: Path, fd: int) -> None:
    if _is_ours(fd):
        with suppress(OSError):  # another agent is in it
            path.rmdir()


def _read(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _children(directory: int) -> list[str]:
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []  # removed meanwhile


def _step(here: int, name: str) -> int:
    """From one folder to another, keeping one descriptor: nests may be deeper than descriptors last."""
    there = os.open(name, _DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _walk(top: int) -> Iterator[int]:
    """Descriptors of a folder and all below it, parents first, each open until the next is asked for."""
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


def _remove_tree(top: int, name: str, parent: int) -> None:
    """Remove folder `name` of `parent`, open as `top`, the deepest first. Raises `OSError`."""
    here = os.open(".", _DIRECTORY, dir_fd=top)
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
                break
    finally:
        os.close(here)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)
