"""What a cgroup's path says of who lives in it: the container, pod, job or unit.

Paths are below the mount of cgroup v2. Each line of the table is the convention of one manager; the
last components that say something win. A path is made by managers, yet names in it may be a user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_ID = r"(?P<container>[0-9a-f]{12})[0-9a-f]{52}"  # shown in short, as every tool does
_POD = r"(?P<pod>[0-9a-f]{8}[-_][0-9a-f_-]{27})"

PATTERNS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        # systemd driver: docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope (Podman),
        # nerdctl-ID.scope; a Podman conmon is the container's keeper, not the container.
        rf"(?:docker|cri-containerd|crio|libpod|nerdctl|buildkit)-{_ID}\.scope",
        # cgroupfs driver: docker/ID, kubepods/.../podUID/ID, libpod_parent/libpod-ID, default/ID (containerd)
        rf"(?:libpod-|crio-)?{_ID}",
        # Kubernetes: kubepods-burstable-podUID.slice, or podUID
        rf"(?:kubepods(?:-besteffort|-burstable)?-)?pod{_POD}(?:\.slice)?",
        # Slurm: slurmstepd.scope/job_7/step_0/user/task_0, or slurm/uid_1000/job_7/step_batch
        r"job_(?P<job>[0-9]+)",
        # systemd-nspawn and machined, LXC
        r"systemd-nspawn@(?P<container>.+)\.service",
        r"machine-(?P<container>.+)\.scope",
        r"lxc\.payload\.(?P<container>.+)",
        # a unit of systemd
        r"(?P<unit>.+)\.(?:service|scope)",
    )
)

_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5)


def names(path: str) -> Mapping[str, str]:
    """`container`, `pod`, `job`, `unit`, as far as the path tells them, and `cgroup`, its last component."""
    found: dict[str, str] = {}
    parts = [part for part in path.split("/") if part]
    for part in parts:
        for pattern in PATTERNS:
            if match := pattern.fullmatch(part):
                found.update((kind, _unescaped(text)) for kind, text in match.groupdict().items())
                break
    if "pod" in found:
        found["pod"] = found["pod"].replace("_", "-")
    return {**found, "cgroup": parts[-1] if parts else ""}


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1], 16)), text)
