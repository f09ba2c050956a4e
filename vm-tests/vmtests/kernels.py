"""The kernels of kernels.toml: fetched as packages of the archive that apt knows, and unpacked.

Nothing is installed: a package lies unpacked in a folder of its own, for the machine alone.
"""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

APT_HELPER = "/usr/lib/apt/apt-helper"
HERE = Path(__file__).parents[1]


class VmError(Exception):
    """The tests cannot be run here; the text says why."""


class Kernel(NamedTuple):
    """One kernel of the table: `path` of its package in an archive that the mirror which apt uses has
    beside others, and the package's SHA-256 in hexadecimal."""

    name: str
    archive: str
    path: str
    sha256: str
    default: bool = False


class Mode(NamedTuple):
    """How a machine is booted: `append` to the kernel's command line; `cgroup` unified or hybrid."""

    name: str
    append: str = ""
    cgroup: str = "unified"
    default: bool = False


class Unpacked(NamedTuple):
    """A kernel on disk. `modules` is the folder that /lib/modules/RELEASE becomes inside."""

    release: str
    image: Path
    modules: Path


def read_table(path: Path = HERE / "kernels.toml") -> tuple[list[Kernel], list[Mode]]:
    """All kernels and modes, in the order of the file. Needs Python 3.11, as Debian 12 has."""
    table = importlib.import_module("tomllib").loads(path.read_text(encoding="utf-8"))
    return [Kernel(**row) for row in table["kernel"]], [Mode(**row) for row in table["mode"]]


def unpacked(kernel: Kernel, cache: Path) -> Unpacked:
    """Fetch, check and unpack a kernel, unless that is done. Raises `VmError`."""
    folder = cache / kernel.sha256
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        package = _fetch(kernel, cache)
        _run(["dpkg-deb", "--extract", str(package), str(part)])
        package.unlink()
        if not (part / "lib").exists():  # newer packages keep modules below /usr, depmod looks in /lib
            (part / "lib").symlink_to("usr/lib")
        (modules,) = part.glob("lib/modules/*")
        _run(["depmod", "--basedir", str(part), modules.name])
        part.rename(folder)
    (modules,) = folder.glob("lib/modules/*")
    return Unpacked(modules.name, folder / "boot" / f"vmlinuz-{modules.name}", modules)


def _fetch(kernel: Kernel, cache: Path) -> Path:
    path = cache / Path(kernel.path).name
    url = f"{_archive(kernel.archive)}/{kernel.path}"
    _run(
        [
            APT_HELPER,
            "-o",
            "APT::Sandbox::User=root",
            "download-file",
            url,
            str(path),
            f"SHA256:{kernel.sha256}",
        ]
    )
    return path


def _archive(name: str) -> str:
    """Where apt here finds Debian's archive of this name: any suite of it will do."""
    for target in _run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).split():
        place = target.rstrip("/")
        if place.rpartition("/")[2] == name:
            return place
    raise VmError(f"apt here knows no archive called {name}: its kernels come from Debian's mirrors")


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{' '.join(command)}: {(done.stderr + done.stdout).strip()[-2000:]}")
    return done.stdout
