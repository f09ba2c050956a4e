"""Whether this host is ready: every part that watching needs is tried, and what is missing is named."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentwatch.kernel.bpf import BpfError
from agentwatch.kernel.bytecode import VMLINUX, BuildError
from agentwatch.kernel.cache import bcc_version
from agentwatch.kernel.cgroup import CgroupError, controllers, find_mount
from agentwatch.kernel.errors import ProbeError
from agentwatch.kernel.probes import CHOICES, PROBES_TABLE, Probes
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleError
from agentwatch.sources import nvml

OK, DEGRADED, MISSING = "ok", "degraded", "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One part: `state` is ok, degraded (watching works, less is seen or can be done) or missing (it does
    not work)."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> Iterator[Check]:
    """All checks, in the order in which they depend on each other."""
    yield Check("kernel", OK, f"{platform.system()} {platform.release()} {platform.machine()}")
    yield _privilege()
    yield _cgroup()
    yield _limits()
    yield _btf()
    yield _bcc()
    yield _rules()
    yield _gpus()
    if os.geteuid() == 0:
        yield from _probes()
    yield Check("python", OK, platform.python_version())


def _privilege() -> Check:
    if os.geteuid() == 0:
        return Check("privilege", OK, "root")
    return Check("privilege", MISSING, "not root: probes cannot be tried", "run it with sudo")


def _cgroup() -> Check:
    try:
        mount = find_mount()
    except CgroupError as error:
        return Check("cgroup v2", MISSING, str(error), "boot with systemd.unified_cgroup_hierarchy=1")
    return Check("cgroup v2", OK, str(mount))


def _limits() -> Check:
    wanted = ("pids", "memory", "cpu")
    try:
        there = controllers(find_mount())
    except (CgroupError, OSError):
        there = set()
    lacking = [name for name in wanted if name not in there]
    if lacking:
        detail = f"policies cannot limit {', '.join(lacking)}: cgroup v2 here has not these controllers"
        return Check("limits", DEGRADED, detail, "boot with systemd.unified_cgroup_hierarchy=1")
    return Check("limits", OK, ", ".join(wanted))


def _btf() -> Check:
    if VMLINUX.exists():
        return Check("kernel types", OK, f"{VMLINUX}, {VMLINUX.stat().st_size >> 10} KiB")
    return Check("kernel types", MISSING, f"no {VMLINUX}", "use a kernel built with CONFIG_DEBUG_INFO_BTF")


def _bcc() -> Check:
    version = bcc_version()
    if version:
        text = version.decode(errors="replace").partition("=")[2].strip().strip("'\"")
        return Check("BCC", OK, text or "installed")
    return Check("BCC", MISSING, "no module bcc for this interpreter", "apt install python3-bpfcc")


def _rules() -> Check:
    try:
        rules = load_rules([RULES])
    except RuleError as error:
        return Check("rules", MISSING, str(error), "mend or reinstall the shipped rules")
    return Check("rules", OK, f"{len(rules.rules)} in {RULES}")


def _gpus() -> Check:
    found, nodes = nvml.library(), nvml.device_nodes()
    if nodes and found is None:
        remedy = f"install {nvml.LIBRARY}, a part of NVIDIA's driver"
        return Check("GPUs", DEGRADED, f"no {nvml.LIBRARY}: {nvml.COST}", remedy)
    if found is None:
        return Check("GPUs", OK, "none of NVIDIA's")
    return Check("GPUs", OK, f"{found}, the driver is {'loaded' if nodes else 'not loaded'}")


def _probes() -> Iterator[Check]:
    try:
        with Probes() as probes:
            missing = {one.probe: one for one in probes.missing}
            ways = {f"probe {probe.spec.name}": "" for probe in PROBES_TABLE}
            ways |= {choice.name: probes.ways.get(choice.name, "") for choice in CHOICES}
    except (ProbeError, BpfError, BuildError) as error:
        yield Check("probes", MISSING, str(error), _remedy())
        return
    for name, way in ways.items():
        lacking = missing.get(name.removeprefix("probe "))
        if lacking is None:
            yield Check(name, OK, way)
        else:
            yield Check(name, DEGRADED, f"{lacking.error}: {lacking.cost}")


def _remedy() -> str:
    lockdown = Path("/sys/kernel/security/lockdown")
    if lockdown.exists() and "[confidentiality]" in lockdown.read_text(encoding="ascii"):
        return "kernel lockdown is at confidentiality, which forbids eBPF tracing"
    return "Linux 5.11 or later with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and BTF is needed"
