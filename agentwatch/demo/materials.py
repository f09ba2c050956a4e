"""What the agent's honest work is done with: a git repository and a Python package, both made here."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

_WHEEL_TAG = """Wheel-Version: 1.0
Generator: agentwatch
Root-Is-Purelib: true
Tag: py3-none-any
"""
_METADATA = """Metadata-Version: 2.1
Name: {name}
Version: 1.0
"""


def clean_environment() -> dict[str, str]:
    """The environment without what would lead git, pip or HTTP elsewhere (configuration, proxies)."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GIT_", "PIP_")) and not name.lower().endswith("_proxy")
    }
    return kept | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def make_repository(folder: Path) -> Path:
    """Make a bare git repository with one commit in `folder`; return its path."""
    source, bare = folder / "project", folder / "project.git"
    source.mkdir(parents=True)
    (source / "train.py").write_text("print('training')\n")
    identity = ["-c", "user.name=demo", "-c", "user.email=demo@invalid", "-c", "init.defaultBranch=main"]
    for command in (
        ["init", "-q"],
        ["add", "train.py"],
        ["commit", "-q", "-m", "Train"],
        ["clone", "-q", "--bare", ".", str(bare)],
    ):
        subprocess.run(["git", *identity, *command], cwd=source, env=clean_environment(), check=True)
    return bare


def make_wheel(folder: Path, name: str = "tidings") -> Path:
    """Build a wheel of one module (PEP 427) in `folder`, without network or build tools; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": 'MESSAGE = "installed"\n',
        f"{about}/METADATA": _METADATA.format(name=name),
        f"{about}/WHEEL": _WHEEL_TAG,
    }
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{about}/RECORD", _record(files, about))
    return wheel


def _record(files: Mapping[str, str], about: str) -> str:
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    return "\n".join([*rows, f"{about}/RECORD,,", ""])
