"""The kernels of kernels.toml: fetched as packages of archives that apt knows, and unpacked.

Nothing is installed: a package lies unpacked in a folder of its own, for the machine alone.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

APT_HELPER = "/usr/lib/apt/apt-helper"
ARCHIVES = "AGENTWATCH_ARCHIVES"  # URLs of archives besides those that apt knows
HERE = Path(__file__).parents[1]
_LIMIT = 300  # seconds that a fetch may take


class VmError(Exception):
    """The tests cannot be run here; the text says why."""


class Unavailable(VmError):
    """What is needed cannot be had here, or takes too long: nothing is said about agentwatch."""


class Kernel(NamedTuple):
    """One kernel of the table: `path` of its package in an archive, and the package's SHA-256 in
    hexadecimal; `modules` and `headers` the same of the packages that have its modules, where they are
    apart, and its headers. `archive` is the last part of the URL of one that is known here.
    `refuses` is what `agentwatch doctor` says where nothing can be watched; else it is empty."""

    name: str
    archive: str
    path: str
    sha256: str
    default: bool = False
    modules: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()
    refuses: str = ""

    def boots(self, mode: Mode) -> bool:
        """Whether it is known how to boot it in this mode."""
        return bool(self.headers) or not mode.headers


class Mode(NamedTuple):
    """How a machine is booted: `append` to the kernel's command line; `cgroup` unified or hybrid; whether
    the kernel's `headers` are there; `refuses` as a kernel's."""

    name: str
    append: str = ""
    cgroup: str = "unified"
    default: bool = False
    headers: bool = False
    refuses: str = ""


class Unpacked(NamedTuple):
    """A kernel on disk. `modules` is the folder that /lib/modules/RELEASE becomes inside."""

    release: str
    image: Path
    modules: Path


def read_table(path: Path = HERE / "kernels.toml") -> tuple[list[Kernel], list[Mode]]:
    """All kernels and modes, in the order of the file. Raises `Unavailable` before Python 3.11."""
    try:
        table = importlib.import_module("tomllib").loads(path.read_text(encoding="utf-8"))
    except ModuleNotFoundError:
        raise Unavailable("the table of kernels is read by Python 3.11 and later") from None
    return [Kernel(**row) for row in table["kernel"]], [Mode(**row) for row in table["mode"]]


def unpacked(kernel: Kernel, cache: Path) -> Unpacked:
    """Fetch, check and unpack a kernel, unless that is done. Raises `Unavailable`."""
    folder = cache / kernel.sha256
    if not folder.exists():
        part = _extracted(kernel.archive, [(kernel.path, kernel.sha256), *kernel.modules], folder)
        if not (part / "lib").exists():  # newer packages keep modules below /usr, depmod looks in /lib
            (part / "lib").symlink_to("usr/lib")
        (modules,) = part.glob("lib/modules/*")
        _run(["depmod", "--basedir", str(part), modules.name])
        part.rename(folder)
    (modules,) = folder.glob("lib/modules/*")
    return Unpacked(modules.name, folder / "boot" / f"vmlinuz-{modules.name}", modules)


def unpacked_headers(kernel: Kernel, cache: Path) -> Path:
    """The folder below which its headers' packages lie unpacked. Raises `Unavailable`."""
    folder = cache / f"{kernel.sha256}-headers"
    if not folder.exists():
        _extracted(kernel.archive, kernel.headers, folder).rename(folder)
    return folder


def _extracted(archive: str, packages: Sequence[tuple[str, str]], folder: Path) -> Path:
    """Fetch packages and unpack them into a folder beside `folder`, to be renamed once all is done."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path, sha256 in packages:
        package = folder.parent / Path(path).name
        options = ["-o", "APT::Sandbox::User=root"]
        url = f"{_archive(archive)}/{path}"
        _run([APT_HELPER, *options, "download-file", url, str(package), f"SHA256:{sha256}"])
        _run(["dpkg-deb", "--extract", str(package), str(part)])
        package.unlink()
    return part


def _archive(name: str) -> str:
    """Where the archive of this name is, as apt here or the environment says: any suite of it will do."""
    known = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)"])
    for target in f"{known} {os.environ.get(ARCHIVES, '')}".split():
        place = target.rstrip("/")
        if place.rpartition("/")[2] == name:
            return place
    raise Unavailable(f"apt here knows no archive called {name}: name the URL of one in {ARCHIVES}")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from None
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {(done.stderr + done.stdout).strip()[-2000:]}")
    return done.stdout
