"""./dev answers for itself where nothing needs to be installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.lab import needs_root

DEV = Path(__file__).parent.parent / "dev"
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def run(*command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_help_names_every_command(tmp_path: Path) -> None:
    done = run(str(DEV), "help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("run", "test", "lint", "bench", "compiled", "package", "scoreboard", "vm", "clean"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["unknown"]])
def test_wrong_usage_is_told(arguments: list[str]) -> None:
    done = run(str(DEV), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


@needs_root
@pytest.mark.parametrize("command", ["run", "bench"])
def test_without_root_it_says_how(command: str) -> None:
    done = run(*NOBODY, str(DEV), command)
    assert done.returncode == 4
    assert f"sudo ./dev {command}" in done.stderr


def test_what_a_posix_shell_runs() -> None:
    assert run("dash", "-n", str(DEV)).returncode == 0
