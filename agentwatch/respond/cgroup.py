"""Freezing, thawing and killing a cgroup, with the times at which the kernel was told and had done it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from agentwatch.kernel.cgroup import Cgroup
from agentwatch.respond.actuate import Outcome
from agentwatch.sources.kernel import now

# Busy members stop at their next scheduler tick, so reading is quicker than waiting: the
# kernel notifies of cgroup.events at most every 10 ms.
_SPIN_NS = 2_000_000
_SLEEP = 0.0005  # seconds
_SETTLE_NS = 100_000_000
_KILL_NS = 5_000_000_000


def _settled(cgroup: Cgroup, key: str, value: int, limit_ns: int) -> int:
    """When `cgroup.events` first had `key` at `value`, ns since boot; 0 if not within the limit."""
    begin = now()
    while True:
        if cgroup.events()[key] == value:
            return now()
        waited = now() - begin
        if waited > limit_ns:
            return 0
        if waited > _SPIN_NS:
            time.sleep(_SLEEP)


def freeze(cgroup: Cgroup) -> Outcome:
    """Freeze all below. `acted` is when the kernel was told, `settled` when all had stopped."""
    try:
        already = cgroup.frozen()
        cgroup.write_freeze(True)
        acted = now()
        return Outcome("already" if already else "done", "", acted, _settled(cgroup, "frozen", 1, _SETTLE_NS))
    except OSError as error:
        return Outcome("failed", error.strerror or str(error))


def thaw(cgroup: Cgroup) -> Outcome:
    """Let all below go on."""
    try:
        cgroup.write_freeze(False)
        acted = now()
        return Outcome("done", "", acted, _settled(cgroup, "frozen", 0, _SETTLE_NS))
    except OSError as error:
        return Outcome("failed", error.strerror or str(error))


def kill(cgroup: Cgroup) -> Outcome:
    """Kill all below, frozen ones and those born meanwhile too."""
    try:
        acted = _kill_once(cgroup)
        settled = _settled(cgroup, "populated", 0, _KILL_NS)
    except OSError as error:
        return Outcome("failed", error.strerror or str(error))
    return Outcome("done", "" if settled else "some processes have not ended yet", acted, settled)


def _kill_once(cgroup: Cgroup) -> int:
    try:
        cgroup.write_kill()
        return now()
    except FileNotFoundError:
        # Before cgroup.kill (kernel 5.14): frozen first, so that nothing is born while we go
        # through them; a frozen process dies of SIGKILL.
        cgroup.write_freeze(True)
        for pid in cgroup.processes():
            with suppress(ProcessLookupError):
                _kill_process(pid)
        return now()


def _kill_process(pid: int) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
