"""A process that ends the agent should the watcher die without a word, by SIGKILL or a crash.

It is a fork of the watcher that waits for the end of a pipe and holds nothing but the agent's
cgroup: it costs little memory, and the watcher's programs do not outlive the watcher through it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from agentwatch.kernel.cgroup import Cgroup, CgroupError
from agentwatch.respond.cgroup import CgroupControl, Result

_DISMISSED = b"."
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
_SPARED = b"-900"  # of oom_score_adj: when memory runs out others go first


class Guard:
    """The watcher's end. A fork of the watcher that lives on with the pipe open keeps the guard waiting."""

    def __init__(self, cgroup: Cgroup) -> None:
        """Fork the guard of a locked cgroup. Call it before threads are started. Raises `OSError`."""
        reader, self._writer = os.pipe2(os.O_CLOEXEC)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        self.pid = os.fork()
        if self.pid == 0:
            _watch(reader, cgroup)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)

    def dismiss(self) -> None:
        """Send the guard away, the agent being looked after; again does nothing."""
        writer, self._writer = self._writer, -1
        if writer < 0:
            return
        with suppress(BrokenPipeError):
            os.write(writer, _DISMISSED)
        os.close(writer)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _watch(reader: int, cgroup: Cgroup) -> None:
    """The guard's life; never returns."""
    try:
        control = CgroupControl(cgroup)
        _detach((reader, cgroup.fileno(), *control.descriptors()))
        if os.read(reader, 1) != _DISMISSED:
            while control.kill().result is Result.PENDING:
                pass
            with suppress(CgroupError):
                cgroup.remove()
    finally:
        os._exit(0)


def _detach(kept: Iterable[int]) -> None:
    """Be out of reach of the terminal, of its signals and of whoever waits for the watcher's output."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in {0, 1, 2}.difference(kept):
        os.dup2(null, fd)
    low = 3
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = max(low, fd + 1)
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
    with suppress(OSError):
        Path("/proc/self/comm").write_bytes(b"agentwatch-grd")
        Path("/proc/self/oom_score_adj").write_bytes(_SPARED)
