"""The tests' own probe and what it needs, compiled once a session."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from agentwatch.kernel.btf import KernelTypes
from agentwatch.kernel.bytecode import VMLINUX, Object
from agentwatch.kernel.cache import Recipe

ROOT = Path(__file__).parents[2]
STUB = ROOT / "probes/include/stub"

needs_bcc = pytest.mark.skipif(find_spec("bcc") is None, reason="BCC is not installed")

RECIPE = Recipe(
    text=(Path(__file__).with_name("probe.c")).read_text(encoding="utf-8"),
    stub=STUB,
    required={"task_struct": ["pid", "tgid", "start_boottime"]},
    optional={"task_struct": ["no_such_member"], "no_such_struct": ["x"]},
    btf_ids=(
        "typedef btf_trace_sched_process_exec",
        "typedef btf_trace_sched_process_exit",
        "func bpf_iter_task",
        "func bpf_rdonly_cast",
        "func no_such_function",
    ),
)


@pytest.fixture(scope="session")
def vmlinux() -> bytes:
    if not VMLINUX.exists():
        pytest.skip(f"this kernel has no {VMLINUX}")
    return VMLINUX.read_bytes()


@pytest.fixture(scope="session")
def kernel_types(vmlinux: bytes) -> KernelTypes:
    return KernelTypes(vmlinux)


@pytest.fixture(scope="session")
def compiled(vmlinux: bytes) -> Object:
    if find_spec("bcc") is None:
        pytest.skip("BCC is not installed")
    return RECIPE.build(vmlinux)


def open_descriptors() -> set[Path]:
    """This process's descriptors, to see that none is leaked."""
    return set(Path("/proc/self/fd").iterdir())


def children() -> set[str]:
    """This process's children, zombies included, to see that none is left (proc_pid_children(5))."""
    return {
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    }
