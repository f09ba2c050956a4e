"""Stop, resume and end everything in a cgroup at once.

Times are in nanoseconds since boot (CLOCK_BOOTTIME), the clock of the events.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from agentwatch.kernel.cgroup import Cgroup

# The kernel rations notifications of cgroup.events to one in 10 ms, so the file is read instead: without
# a pause while a sleeping agent freezes (0.2 ms), then with pauses in proportion to the time waited, which
# leave the CPU to the agent: its busy threads must reach the kernel to freeze.
_BUSY_NS = 500_000
_PAUSE = 1 / 16

_KILL_FILE = "cgroup.kill"  # kernel 5.14


class Result(str, Enum):
    """What became of an order to the kernel."""

    DONE = "done"
    PENDING = "pending"  # written, not confirmed within the limit
    GONE = "gone"  # the cgroup had been removed
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`written_ns` is when the kernel had the order (0: never), `settled_ns` when it had carried it out."""

    result: Result
    written_ns: int = 0
    settled_ns: int = 0
    error: str = ""


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class CgroupControl:
    """The interface files of one cgroup, opened before they are needed: freezing is a single write."""

    def __init__(self, cgroup: Cgroup) -> None:
        """Raises `OSError`. The cgroup must stay open as long as this."""
        self._cgroup = cgroup
        self._freeze = cgroup.open_file("cgroup.freeze", os.O_WRONLY)
        self._events = cgroup.open_file("cgroup.events", os.O_RDONLY)
        self._kill = -1
        with suppress(FileNotFoundError):
            self._kill = cgroup.open_file(_KILL_FILE, os.O_WRONLY)

    def descriptors(self) -> tuple[int, ...]:
        """Those that it needs open."""
        return tuple(fd for fd in (self._freeze, self._events, self._kill) if fd >= 0)

    def close(self) -> None:
        """Close the files; again does nothing."""
        for fd in self.descriptors():
            os.close(fd)
        self._freeze = self._events = self._kill = -1

    def __enter__(self) -> CgroupControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def freeze(self, limit_s: float = 1.0) -> Outcome:
        """Stop every process, and wait until the kernel says that all have stopped."""
        return self._order(self._freeze, b"1", b"frozen 1", limit_s)

    def thaw(self, limit_s: float = 1.0) -> Outcome:
        """Let every process go on."""
        return self._order(self._freeze, b"0", b"frozen 0", limit_s)

    def frozen(self) -> bool:
        """Whether all processes have stopped. Raises `OSError` where the cgroup is gone."""
        return b"frozen 1" in os.pread(self._events, 256, 0)

    def kill(self, limit_s: float = 5.0) -> Outcome:
        """End every process, frozen ones too, and wait until none is left."""
        if self._kill >= 0:
            return self._order(self._kill, b"1", b"populated 0", limit_s)
        return self._kill_one_by_one(limit_s)

    def _order(self, file: int, order: bytes, sign: bytes, limit_s: float) -> Outcome:
        written = 0
        try:
            os.pwrite(file, order, 0)
            written = _now()
            settled = self._await(sign, written, limit_s)
        except OSError as error:
            return _failure(error, written)
        return Outcome(Result.DONE if settled else Result.PENDING, written, settled)

    def _await(self, sign: bytes, start: int, limit_s: float) -> int:
        """When cgroup.events showed the sign, or 0 if it did not within the limit."""
        while True:
            seen, now = sign in os.pread(self._events, 256, 0), _now()
            if seen:
                return now
            if now - start > limit_s * 1e9:
                return 0
            if now - start > _BUSY_NS:
                time.sleep((now - start) * _PAUSE / 1e9)

    def _kill_one_by_one(self, limit_s: float) -> Outcome:
        """Before cgroup.kill: freeze, so that nobody forks, and signal each process through its pidfd."""
        frozen = self.freeze(limit_s)
        if frozen.result in (Result.GONE, Result.FAILED):
            return frozen
        deadline = frozen.written_ns + int(limit_s * 1e9)
        try:
            while True:
                _signal_members(self._cgroup)
                # A few rounds: not all may have been frozen, and some come in meanwhile.
                settled = self._await(b"populated 0", _now(), 0.01)
                if settled or _now() > deadline:
                    break
        except OSError as error:
            return _failure(error, frozen.written_ns)
        return Outcome(Result.DONE if settled else Result.PENDING, frozen.written_ns, settled)


def _signal_members(cgroup: Cgroup) -> None:
    """SIGKILL to every member. A pidfd opened between two listings of its pid is a member or dead."""
    handles: dict[int, int] = {}
    try:
        for pid in cgroup.pids():
            with suppress(ProcessLookupError):
                handles[pid] = os.pidfd_open(pid)
        for pid in handles.keys() & set(cgroup.pids()):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handles[pid], signal.SIGKILL)
    finally:
        _close_all(handles.values())


def _close_all(descriptors: Iterable[int]) -> None:
    for fd in descriptors:
        os.close(fd)


def _failure(error: OSError, written_ns: int) -> Outcome:
    result = Result.GONE if error.errno == errno.ENODEV else Result.FAILED
    return Outcome(result, written_ns, error=error.strerror or "")
