"""Tables of recordings, kept from one question to the next: converting is most of the work of a question.

A recording's folder is named by its content, the names it was given by, and the code and rules that make
the tables: whatever has changed is converted again. What is kept is as confidential as the trace,
in a folder that only its owner can enter; what another user could have written is not read.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import agentwatch
from agentwatch.forensics.export import to_parquet
from agentwatch.forensics.story import Story, digest_of
from agentwatch.forensics.tables import TABLES
from agentwatch.replay import Recording
from agentwatch.resources import RULES

KEPT_BYTES = 8 << 30  # of all recordings; those not used for longest go first
KEPT_SECONDS = 30 * 86_400  # since the last use
_CHEAP = frozenset(TABLES) - {"events"}  # together they cost little more than one of them


def default_folder() -> Path:
    """`/var/cache/agentwatch/tables` for root, else under the user's XDG cache folder."""
    if os.geteuid() == 0:
        return Path("/var/cache/agentwatch/tables")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentwatch" / "tables"


@contextmanager
def place(recording: Recording, folder: Path) -> Iterator[Path | None]:
    """Where the tables of a recording are kept, held against removal; None where they cannot be kept."""
    digest = digest_of(recording)
    if not digest or not _usable(folder):
        yield None
        return
    names = "\0".join(str(path) for path in recording)
    key = hashlib.sha256(f"{_maker()}\0{digest}\0{names}".encode("utf-8", "surrogateescape")).hexdigest()
    try:
        found, lock = _hold(folder / key)
    except OSError:
        yield None
        return
    try:
        yield found
    finally:
        os.close(lock)


def lacks(folder: Path, wanted: Collection[str]) -> bool:
    """Whether one of these tables is not in the folder."""
    return not all((folder / name).is_dir() for name in wanted)


def fill(recording: Recording, folder: Path, wanted: Collection[str]) -> Story:
    """Convert what of the wanted tables is not in the folder, and those that are cheap."""
    made = [name for name in TABLES if name in _CHEAP or name in wanted]
    made = [name for name in made if lacks(folder, [name])]
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as unfinished:
        story = to_parquet(recording, Path(unfinished), made)
        for name in made if story.header is not None else ():
            table = Path(unfinished, name)
            table.mkdir(exist_ok=True)  # no rows are an answer, too
            with suppress(OSError):  # somebody else was faster
                table.rename(folder / name)
    return story


def prune(folder: Path) -> None:
    """Remove what was not used for long, and what is too much. What is in use stays."""
    entries = []
    for path in folder.iterdir() if _usable(folder) else ():
        with suppress(OSError):
            size = sum(file.lstat().st_size for file in path.rglob("*"))
            entries.append((path.stat().st_mtime, size, path))
    room = KEPT_BYTES
    for used, size, path in sorted(entries, reverse=True):
        room -= size
        if room < 0 or time.time() - used > KEPT_SECONDS:
            _remove(path)


def _hold(path: Path) -> tuple[Path, int]:
    """Make the folder if it is not there, mark it as used, and lock it against `_remove`."""
    while True:
        path.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.lstat()):
                os.utime(lock)
                return path, lock
        os.close(lock)  # it was removed just now


def _remove(path: Path) -> None:
    with suppress(OSError):
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        finally:
            os.close(lock)


def _usable(folder: Path) -> bool:
    """Whether the folder is there, or can be made, and is this user's alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


@cache
def _maker() -> str:
    """What changes with the code and the shipped rules, which traces without rules are told under."""
    sha = hashlib.sha256()
    for root, pattern in ((Path(agentwatch.__file__).parent, "*.py"), (RULES, "*.[yt][mx][lt]")):
        for path in sorted(root.rglob(pattern)):
            sha.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return sha.hexdigest()
