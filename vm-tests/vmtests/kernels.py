"""The kernels of kernels.toml: fetched as packages of the archive that apt knows, and unpacked.

Nothing is installed: a package lies unpacked in a folder of its own, for the machine alone.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]


class VmError(Exception):
    """The tests cannot be run here; the text says why."""


class Kernel(NamedTuple):
    """One kernel of the table. `sha256` is the package's, in hexadecimal."""

    name: str
    package: str
    version: str
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
    folder = cache / f"{kernel.package}_{kernel.version}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _run(["dpkg-deb", "--extract", str(_fetch(kernel, cache)), str(part)])
        (release,) = [path.name for path in _module_folders(part)]
        _run(["depmod", "--basedir", str(part), release])
        part.rename(folder)
    (modules,) = _module_folders(folder)
    return Unpacked(modules.name, folder / "boot" / f"vmlinuz-{modules.name}", modules)


def _module_folders(folder: Path) -> list[Path]:
    """Newer packages keep their modules below /usr."""
    return [*folder.glob("lib/modules/*"), *folder.glob("usr/lib/modules/*")]


def _fetch(kernel: Kernel, cache: Path) -> Path:
    # apt drops its privileges where it can; it writes only to a folder that its user may write.
    package = f"{kernel.package}={kernel.version}"
    _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package], cache)
    (path,) = cache.glob(f"{kernel.package}_*.deb")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != kernel.sha256:
        path.unlink()
        raise VmError(f"{path.name} has the SHA-256 {digest}, not what kernels.toml says: {kernel.sha256}")
    return path


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
