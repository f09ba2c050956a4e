"""Bounds on what a scenario may use, whichever version of cgroups has the controllers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agentwatch.kernel.cgroup import find_mount

PIDS, MEMORY = 200, 1 << 30
_V1 = {"pids": ("pids.max", PIDS), "memory": ("memory.limit_in_bytes", MEMORY)}
_V2 = {"pids": ("pids.max", PIDS), "memory": ("memory.max", MEMORY)}


@contextmanager
def limited(name: str, cgroup: Path, pids: Sequence[int]) -> Iterator[list[str]]:
    """Bound what lives below `cgroup` (of version 2), or these processes and their children.

    Yields the controllers in force; a machine may have neither.
    """
    second = _limit_second(cgroup)
    first = {kind: folder for kind, folder in _first_version().items() if kind not in second}
    for folder in first.values():
        _sweep(folder, name.rstrip("0123456789"))
    made = [folder / name for folder in first.values()]
    try:
        for kind, folder in zip(first, made, strict=True):
            folder.mkdir(exist_ok=True)
            file, value = _V1[kind]
            (folder / file).write_text(str(value))
            for pid in pids:
                (folder / "cgroup.procs").write_text(str(pid))
        yield [*second, *first]
    finally:
        for folder in made:
            _empty(folder)


def _limit_second(cgroup: Path) -> list[str]:
    done = []
    for kind, (file, value) in _V2.items():
        with suppress(OSError):
            for folder in (find_mount(), cgroup.parent):
                (folder / "cgroup.subtree_control").write_text(f"+{kind}")
            (cgroup / file).write_text(str(value))
            done.append(kind)
    return done


def _first_version() -> dict[str, Path]:
    """Controller -> where its hierarchy is mounted, among those used here."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup":
            found.update({name: Path(target) for name in _V1 if name in options.split(",")})
    return found


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what runs that were killed have left: their directories are named by their pids."""
    for left in folder.glob(f"{prefix}*"):
        if not Path("/proc", left.name.removeprefix(prefix)).exists():
            with suppress(OSError):
                left.rmdir()


def _empty(folder: Path) -> None:
    """Remove a directory of version 1; what is still in it (dying) goes back to the top."""
    with suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (folder.parent / "cgroup.procs").write_text(pid)
        folder.rmdir()
