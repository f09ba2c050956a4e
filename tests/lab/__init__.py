"""What tests share: programs, hosts, cgroups, ssh in its many forms, and waiting.

from tests.lab import Cgroup, compiled, eventually, needs_root, script
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

PROGRAMS = Path(__file__).parent.parent / "programs"

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., object])


def needs_root(test: Test) -> Test:
    """Mark a test as one that needs root; it is skipped without."""
    skip = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    marked: Test = pytest.mark.root(skip(test))
    return marked


patience = 1.0  # times the seconds that tests wait; an emulated machine sets more


def eventually(condition: Callable[[], T], seconds: float = 10) -> T:
    """Look at `condition` until it is true and return what it gave; fail after so many seconds.

    For what no file descriptor announces; where one does, wait for that.
    """
    seconds *= patience
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"not so within {seconds} s: {getattr(condition, '__name__', condition)}")
        time.sleep(0.002)
    return value


@functools.cache
def build_folder() -> Path:
    """Where programs of this test run are built; gone at its end."""
    folder = tempfile.TemporaryDirectory(prefix="agentwatch-programs-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def compiled(name: str) -> Path:
    """The executable of tests/programs/NAME.c, compiled once in a test run."""
    program = build_folder() / name
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", program, PROGRAMS / f"{name}.c"], check=True)
    return program


def script(name: str, *arguments: object) -> list[str]:
    """The command that runs tests/programs/NAME.py."""
    return [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, arguments)]


class Cgroup:
    """A cgroup v2 directory of the test's own, gone with all that is in it on exit. Needs root."""

    def __init__(self, name: str = "test") -> None:
        self.path = _cgroup2_mount() / f"agentwatch-{name}-{os.getpid()}"

    def __enter__(self) -> Cgroup:
        self.path.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        (self.path / "cgroup.kill").write_text("1")
        eventually(lambda: not self.pids())
        self.path.rmdir()

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command whose every instruction runs inside."""
        enter = ["sh", "-c", f'echo $$ >{self.path}/cgroup.procs && exec "$@"', "sh"]
        process: subprocess.Popen[bytes] = subprocess.Popen([*enter, *command], **options)
        return process

    def pids(self) -> list[int]:
        """Who is inside."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def freeze(self, frozen: bool = True) -> None:
        """Freeze or thaw, and wait until the kernel says so."""
        (self.path / "cgroup.freeze").write_text("1" if frozen else "0")
        eventually(lambda: self.frozen() == frozen)

    def frozen(self) -> bool:
        """Is all inside frozen?"""
        return "frozen 1" in (self.path / "cgroup.events").read_text()


def _cgroup2_mount() -> Path:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(target)
    pytest.skip("no cgroup v2 is mounted")


def hooks_on_calls() -> int:
    """How many ends of system calls this process has programs on."""
    fds = Path("/proc/self/fd")
    return sum(os.readlink(fd) == "anon_inode:[perf_event]" for fd in fds.iterdir() if fd.is_symlink())
