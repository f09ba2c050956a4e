"""What the kernel refuses agents, by eBPF programs on LSM hooks (probes/deny.c), where it runs any.

Nothing is attached until the first agent is guarded against or blocked: who only watches pays nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from agentwatch.kernel import bpf
from agentwatch.kernel.bpf import AttachType, Handle, ProgramType
from agentwatch.kernel.errors import KernelError
from agentwatch.kernel.load import ProgramSpec, UnknownTarget

GUARDED, BLOCKED = 1, 2  # bits of a value of DENIED
LOST = "block is not available, and nothing keeps agents from signalling or tracing the monitor, from eBPF " \
       "and from loading modules"  # fmt: skip
_ACTIVE = Path("/sys/kernel/security/lsm")


def _hook(name: str, hook: str) -> ProgramSpec:
    return ProgramSpec(name, ProgramType.LSM, AttachType.LSM_MAC, f"func bpf_lsm_{hook}")


GUARD = (
    _hook("deny_ptrace", "ptrace_access_check"),
    _hook("deny_kill", "task_kill"),
    _hook("deny_bpf", "bpf"),
    _hook("deny_code_file", "kernel_read_file"),
    _hook("deny_code_data", "kernel_load_data"),
)
BLOCK = (
    _hook("deny_exec", "bprm_creds_for_exec"),
    _hook("deny_connect", "socket_connect"),
    _hook("deny_open", "file_open"),
)
DENIALS = (*GUARD, *BLOCK)


class DenialError(KernelError):
    """This kernel refuses agents nothing; the text says why."""


def absence() -> str:
    """Why programs on LSM hooks would not run here, attached or not; or an empty string."""
    try:
        active = _ACTIVE.read_text(encoding="ascii")
    except OSError:
        return f"no {_ACTIVE}: the kernel has no LSMs, or securityfs is not mounted"
    if "bpf" not in active.strip().split(","):
        return f"bpf is not among the active LSMs ({active.strip()}): see lsm= on the kernel's command line"
    return ""


class Denials:
    """What is refused to whom. Closing ends all of it."""

    def __init__(self, load: Callable[[ProgramSpec], Handle], denied: Handle) -> None:
        """`load` loads one of `DENIALS`, `denied` is the map."""
        self._load = load
        self._denied = denied
        self._links: dict[str, Handle] = {}
        self._of: dict[int, int] = {}
        self._stack = ExitStack()

    def try_all(self) -> None:
        """Attach everything. Raises `DenialError`."""
        self._attach(DENIALS)

    def guard(self, agent: int) -> None:
        """Keep an agent from what would end the watch. Raises `DenialError`."""
        self._attach(GUARD)
        self._set(agent, self._of.get(agent, 0) | GUARDED)

    def block(self, agent: int) -> None:
        """Let an agent start no program, connect to nothing, open no watched file. Raises `DenialError`."""
        self._attach(BLOCK)
        self._set(agent, self._of.get(agent, 0) | BLOCKED)

    def unguard(self, agent: int) -> None:
        self._set(agent, self._of.get(agent, 0) & ~GUARDED)

    def unblock(self, agent: int) -> None:
        self._set(agent, self._of.get(agent, 0) & ~BLOCKED)

    def forget(self, agent: int) -> None:
        """Refuse it nothing any more."""
        self._set(agent, 0)

    def _set(self, agent: int, bits: int) -> None:
        if bits == self._of.get(agent, 0):
            return
        bpf.map_update(self._denied, struct.pack("<I", agent), struct.pack("<I", bits))
        self._of[agent] = bits

    def _attach(self, programs: Iterable[ProgramSpec]) -> None:
        if why := absence():
            raise DenialError(why)
        for spec in programs:
            if spec.name in self._links:
                continue
            try:
                with self._load(spec) as program:  # which its link keeps
                    self._links[spec.name] = self._stack.enter_context(bpf.attach_tracing(program))
            except (bpf.BpfError, UnknownTarget) as error:
                raise DenialError(f"{spec.name}: {str(error).splitlines()[0]}") from error

    def close(self) -> None:
        """Detach every program."""
        self._stack.close()

    def __enter__(self) -> Denials:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
