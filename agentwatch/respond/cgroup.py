"""Freezing, thawing and killing a cgroup, with the times at which the kernel was told and had done it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from agentwatch.clock import now
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.respond.outcome import Outcome

# Busy members stop at their next scheduler tick, so reading is quicker than waiting: the
# kernel notifies of cgroup.events at most every 10 ms.
_SPIN_NS = 2_000_000
_SLEEP = 0.0005  # seconds
SETTLE_NS = 100_000_000  # for one that acts on the event path
PATIENT_NS = 2_000_000_000  # for an operator, who wants to know: thousands take more than a moment
_KILL_NS = 5_000_000_000
_ROUND_NS = 10_000_000  # between two rounds of killing one by one


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


def freeze(cgroup: Cgroup, limit_ns: int = SETTLE_NS) -> Outcome:
    """Freeze all below. `acted` is when the kernel was told, `settled` when all had stopped, which is
    waited for up to `limit_ns`."""
    try:
        already = cgroup.frozen()
        cgroup.write_freeze(True)
        acted = now()
        settled = _settled(cgroup, "frozen", 1, limit_ns)
        return Outcome("pause", "already" if already else "done", "", acted, settled)
    except OSError as error:
        return Outcome("pause", "failed", error.strerror or str(error))


def thaw(cgroup: Cgroup, limit_ns: int = SETTLE_NS) -> Outcome:
    """Let all below go on."""
    try:
        cgroup.write_freeze(False)
        acted = now()
        return Outcome("resume", "done", "", acted, _settled(cgroup, "frozen", 0, limit_ns))
    except OSError as error:
        return Outcome("resume", "failed", error.strerror or str(error))


def kill(cgroup: Cgroup, limit_ns: int = _KILL_NS) -> Outcome:
    """Kill all below, frozen ones and those born meanwhile too."""
    try:
        try:
            cgroup.write_kill()
        except FileNotFoundError:  # before kernel 5.14
            acted, settled = _kill_one_by_one(cgroup)
        else:
            acted = now()
            settled = _settled(cgroup, "populated", 0, limit_ns)
    except OSError as error:
        return Outcome("kill", "failed", error.strerror or str(error))
    return Outcome("kill", "done", "" if settled else "some processes have not ended yet", acted, settled)


def _kill_one_by_one(cgroup: Cgroup) -> tuple[int, int]:
    """Freeze, so that fewer are born while we go through them, and go through them until none is left."""
    cgroup.write_freeze(True)
    acted = now()
    while True:
        _kill_members(cgroup)
        settled = _settled(cgroup, "populated", 0, _ROUND_NS)
        if settled or now() - acted > _KILL_NS:
            return acted, settled


def _kill_members(cgroup: Cgroup) -> None:
    """What a pidfd refers to that was opened between two listings of its pid is a member, or dead."""
    opened: dict[int, int] = {}
    try:
        for pid in cgroup.processes():
            with suppress(ProcessLookupError):
                opened[pid] = os.pidfd_open(pid)
        for pid in opened.keys() & set(cgroup.processes()):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(opened[pid], signal.SIGKILL)
    finally:
        for fd in opened.values():
            os.close(fd)
