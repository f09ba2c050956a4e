"""Attaching to the tracepoints of system calls, which perf gives and raw tracepoints do not.

Such a tracepoint costs every system call of the host a little (docs/threat-model.md): it is for kernels on
which nothing better can be had, and only while somebody is watched. Events are found through the tracefs
that systemd mounts; where none is, through one of our own, which no path leads to and which takes
CAP_SYS_ADMIN to have.
"""

from __future__ import annotations

import ctypes as ct
import fcntl
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from agentwatch.kernel.background import Background, results
from agentwatch.kernel.bpf import BpfError, Handle

_MOUNTED = Path("/sys/kernel/tracing")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on all architectures
_FSCONFIG_CREATE, _CLOEXEC = 6, 1
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_TYPE_TRACEPOINT, _PERF_FLAG_CLOEXEC, _ATTR_SIZE = 2, 8, 128
_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408  # PERF_EVENT_IOC_*


def find_ends(calls: Iterable[str]) -> dict[str, int]:
    """The tracepoints of the ends of these system calls, by call, for `attach_ends`.

    Calls that this architecture lacks are left out. Raises `BpfError` where there are none.
    """
    found = {call: _event(f"syscalls/sys_exit_{call}") for call in calls}
    ends = {call: number for call, number in found.items() if number is not None}
    if not ends:
        raise BpfError(2, "attach to system calls: this kernel has no tracepoints of them")
    return ends


def attach_ends(program: Handle, ends: Mapping[str, int]) -> list[Handle]:
    """Run a program (type TRACEPOINT) at each of these ends, until what is returned is detached."""
    events: list[Handle] = []
    try:
        for call, number in ends.items():
            events.append(_attach(program, number, call))
    except BpfError:
        detach_ends(events)
        raise
    return events


def detach_ends(events: Iterable[Handle]) -> None:
    """Side by side: for each the kernel waits, tens of ms, until nothing runs the program any more."""
    results([Background(event.close) for event in events])


def _attach(program: Handle, number: int, call: str) -> Handle:
    attr = struct.pack("<IIQQ", _PERF_TYPE_TRACEPOINT, _ATTR_SIZE, number, 1).ljust(_ATTR_SIZE, b"\0")
    opening = _PERF_EVENT_OPEN.get(platform.machine(), -1)
    # Of any process. The program runs on all CPUs: it hangs on the tracepoint, not on this event.
    event = Handle(_call(f"open the tracepoint of {call}", opening, attr, -1, 0, -1, _PERF_FLAG_CLOEXEC))
    try:
        fcntl.ioctl(event.fileno(), _IOC_SET_BPF, program.fileno())
        fcntl.ioctl(event.fileno(), _IOC_ENABLE, 0)
    except OSError as error:
        event.close()
        raise BpfError(error.errno or 0, f"attach to the end of {call}") from error
    return event


def _event(name: str) -> int | None:
    try:
        fd = os.open(f"events/{name}/id", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_tracefs().fileno())
    except FileNotFoundError:
        return None
    with os.fdopen(fd, encoding="ascii") as file:
        return int(file.read())


@cache
def _tracefs() -> Handle:
    if (_MOUNTED / "events").is_dir():
        return Handle(os.open(_MOUNTED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    context = Handle(_call("open tracefs", _FSOPEN, b"tracefs", _CLOEXEC))
    with context:
        _call("make a tracefs", _FSCONFIG, context.fileno(), _FSCONFIG_CREATE, None, None, 0)
        return Handle(_call("mount a tracefs", _FSMOUNT, context.fileno(), _CLOEXEC, 0))


def _call(what: str, number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise BpfError(ct.get_errno(), what)
    return result


@cache
def _libc() -> ct.CDLL:
    return ct.CDLL(None, use_errno=True)
