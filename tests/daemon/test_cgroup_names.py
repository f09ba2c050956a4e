"""Paths of cgroups, as managers make them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.daemon.cgroup_names import names

ID = "0123456789ab" + "c" * 52
UID = "b5a3c1d2-1111-2222-3333-444455556666"
SLICED = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (f"system.slice/docker-{ID}.scope", {"container": ID[:12]}),
        (f"docker/{ID}", {"container": ID[:12]}),
        (f"default/{ID}", {"container": ID[:12]}),
        (f"machine.slice/libpod-{ID}.scope", {"container": ID[:12]}),
        (f"machine.slice/libpod-{ID}.scope/container", {"container": ID[:12]}),
        (f"libpod_parent/libpod-{ID}", {"container": ID[:12]}),
        (
            f"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            {"container": ID[:12], "unit": "user@1000"},
        ),
        (
            f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice"
            f"/cri-containerd-{ID}.scope",
            {"container": ID[:12], "pod": UID},
        ),
        (f"kubepods.slice/kubepods-pod{SLICED}.slice/crio-{ID}.scope", {"container": ID[:12], "pod": UID}),
        (f"kubepods/besteffort/pod{UID}/{ID}", {"container": ID[:12], "pod": UID}),
        (
            "system.slice/slurmstepd.scope/job_4711/step_0/user/task_1",
            {"job": "4711", "unit": "slurmstepd"},
        ),
        ("slurm/uid_1000/job_12/step_batch", {"job": "12"}),
        ("machine.slice/systemd-nspawn@build.service", {"container": "build"}),
        (r"machine.slice/machine-my\x2dbox.scope", {"container": "my-box"}),
        ("lxc.payload.web", {"container": "web"}),
        ("system.slice/trainer.service", {"unit": "trainer"}),
        (f"system.slice/libpod-conmon-{ID}.scope", {"unit": f"libpod-conmon-{ID}"}),
        ("user.slice", {}),
        ("", {}),
    ],
)
def test_who_lives_there(path: str, told: dict[str, str]) -> None:
    assert names(path) == {**told, "cgroup": path.rpartition("/")[2]}


@given(st.text())
def test_any_path_tells_something(path: str) -> None:
    assert "cgroup" in names(path)
