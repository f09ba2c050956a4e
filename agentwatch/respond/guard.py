"""The guard of a run: a small process that ends the agent's tree when its watcher dies.

A watcher that is killed cannot clean up, and a tree that nobody watches must not go on. The
guard holds the reading end of a pipe: it closes when the watcher is gone, however it went.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from types import TracebackType

from agentwatch.kernel.cgroup import Cgroup
from agentwatch.respond.cgroup import kill

_PR_SET_NAME = 15
_DISMISS = b"d"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Guard:
    """Watches over a cgroup until it is dismissed. Fork it before threads are started."""

    def __init__(self, cgroup: Cgroup) -> None:
        read, self._pipe = os.pipe()
        # A Ctrl-C must not end the guard before it has begun to ignore it.
        unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _stand(cgroup, read)
            finally:
                os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
        os.close(read)

    def dismiss(self) -> None:
        """All went well: the guard ends and leaves everything as it is."""
        if self._pipe >= 0:
            with suppress(OSError):
                os.write(self._pipe, _DISMISS)
            os.close(self._pipe)
            self._pipe = -1
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dismiss()


def _stand(cgroup: Cgroup, read: int) -> None:
    """In the guard: wait for the watcher's word or its death."""
    os.setsid()  # the terminal's signals are not for the guard
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"agentwatch-guard", 0, 0, 0)
    _close_others({read, *cgroup.descriptors()})
    if os.read(read, 1) == _DISMISS:
        return
    kill(cgroup)
    cgroup.close()


def _close_others(kept: set[int]) -> None:
    begin = 0
    for fd in sorted(kept):
        os.closerange(begin, fd)
        begin = fd + 1
    os.closerange(begin, os.sysconf("SC_OPEN_MAX"))
