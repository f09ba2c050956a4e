"""Cgroups and processes for tests, made and removed on the running kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentwatch.kernel.cgroup import Cgroup, create

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making a cgroup needs root")

SLEEPER = "print('ready', flush=True)\nimport time\ntime.sleep(600)"
SPINNER = "print('ready', flush=True)\nwhile True: pass"
IGNORER = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
FORKER = "import os\nfor _ in range(3): os.fork()\n" + SLEEPER


def unused_name() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@contextmanager
def member(cgroup: Cgroup, code: str = SLEEPER) -> Iterator[subprocess.Popen[str]]:
    """A Python process inside the cgroup that has said `ready`."""
    procs = cgroup.open_file("cgroup.procs", os.O_WRONLY)
    enter = f"import os\nos.write({procs}, b'0')\nos.close({procs})\n"
    command = [sys.executable, "-I", "-S", "-c", enter + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[procs]) as process:
        os.close(procs)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def fresh_cgroup() -> Iterator[Cgroup]:
    """An agent's folder, removed with all that is in it."""
    cgroup = create(unused_name())
    try:
        yield cgroup
    finally:
        if cgroup.path.exists():
            end(cgroup.path)
            cgroup.remove()
        cgroup.close()


def end(path: Path) -> None:
    """Kill what is in a cgroup, by the kernel's own means."""
    with Cgroup(path) as cgroup:
        fd = cgroup.open_file("cgroup.kill", os.O_WRONLY)
        os.write(fd, b"1")
        os.close(fd)
        while cgroup.populated():
            pass
