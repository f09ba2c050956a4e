"""The materials of the honest work are what git and pip take them for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentwatch.demo.materials import clean_environment, make_repository, make_wheel


def test_repository_can_be_cloned(tmp_path: Path) -> None:
    bare = make_repository(tmp_path / "made")
    subprocess.run(["git", "clone", "-q", bare, tmp_path / "clone"], env=clean_environment(), check=True)
    assert (tmp_path / "clone" / "train.py").exists()


def test_wheel_installs_and_imports(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels")
    install = ["install", "-q", "--no-index", "--no-deps", "--target", str(tmp_path / "packages"), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], env=clean_environment(), check=True)
    code = "import tidings; print(tidings.MESSAGE)"
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path / "packages", text=True)
    assert printed == "installed\n"


def test_environment_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "PIP_INDEX_URL", "http_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("PATH", "/bin")
    environment = clean_environment()
    assert "elsewhere" not in environment.values()
    assert environment["PATH"] == "/bin"
