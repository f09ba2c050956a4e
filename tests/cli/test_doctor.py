from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys

import pytest


def doctor(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentwatch", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_ready_host_is_said_to_be_ready() -> None:
    done = doctor()
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("This host is ready")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_every_check_is_an_object_a_line() -> None:
    checks = [json.loads(line) for line in doctor("--json").stdout.splitlines()]
    names = [check["name"] for check in checks]
    assert {"kernel", "cgroup v2", "limits", "kernel types", "BCC", "rules", "probe on_exec"} <= set(names)
    assert all(check["state"] in ("ok", "degraded", "missing") for check in checks)


def test_without_root_it_says_what_to_do() -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        if (
            not os.access(sys.executable, os.X_OK)
            or subprocess.run([sys.executable, "-c", ""], user=nobody.pw_uid, check=False).returncode
        ):
            pytest.skip("the interpreter is out of reach for another user")
        done = doctor(
            user=nobody.pw_uid, group=nobody.pw_gid, env={"PATH": os.defpath, "HOME": "/nonexistent"}
        )
    else:
        done = doctor()
    if "No module named" in done.stderr:
        pytest.skip("the checkout is out of reach for another user")
    assert done.returncode == 4
    assert "sudo" in done.stdout
