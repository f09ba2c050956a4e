"""Tables of recordings, kept from one question to the next: converting is most of the work of a question.

A recording's folder is named by its content, the paths of its files, and the code and rules that make
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import agentwatch
from agentwatch.forensics.account import Account, digest_of
from agentwatch.forensics.export import to_parquet
from agentwatch.forensics.tables import Depth
from agentwatch.replay import Recording
from agentwatch.resources import RULES

KEPT_BYTES = 8 << 30  # of all recordings; those not used for longest go first
KEPT_SECONDS = 30 * 86_400  # since the last use


def default_folder() -> Path:
    """`/var/cache/agentwatch/tables` for root, else under the user's XDG cache folder."""
    if os.geteuid() == 0:
        return Path("/var/cache/agentwatch/tables")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentwatch" / "tables"


@contextmanager
def place(recording: Recording, folder: Path) -> Iterator[Path | None]:
    """Where the tables of a recording are kept, held against removal; None where they cannot be kept."""
    digest = digest_of(recording)
    if not digest or not usable(folder):
        yield None
        return
    names = "\0".join(str(path.absolute()) for path in recording)
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


def table(folder: Path, name: str, depth: Depth) -> Path | None:
    """A table's folder, where the table was made to this depth at least."""
    return next(
        (path for at in Depth if at >= depth and (path := folder / at.name.lower() / name).is_dir()), None
    )


def lacking(folder: Path, needs: Mapping[str, Depth]) -> dict[str, Depth]:
    """What of the tables needed is not in the folder."""
    return {name: depth for name, depth in needs.items() if table(folder, name, depth) is None}


def fill(recording: Recording, folder: Path, needs: Mapping[str, Depth]) -> Account:
    """Convert what of the tables needed is not in the folder."""
    made = lacking(folder, needs)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as unfinished:
        account = to_parquet(recording, Path(unfinished), made)
        for name, depth in made.items() if account.header is not None else ():
            found = Path(unfinished, name)
            found.mkdir(exist_ok=True)  # no rows are an answer, too
            (folder / depth.name.lower()).mkdir(exist_ok=True)
            with suppress(OSError):  # somebody else was faster
                found.rename(folder / depth.name.lower() / name)
    return account


def prune(folder: Path) -> None:
    """Remove what was not used for long, and what is too much. What is in use stays."""
    entries = []
    for path in folder.iterdir() if usable(folder) else ():
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


def usable(folder: Path) -> bool:
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
