"""The first root file system of a machine: busybox, the modules that its disk needs, a script."""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Mapping
from pathlib import Path

import zstandard

from vmtests.kernels import HERE, Unpacked, VmError

BUSYBOX = Path("/bin/busybox")
MODULES = ("virtio_pci", "virtiofs", "overlay")  # built in or not, as the kernel likes
GREETING = b"the first process runs"
_FILE, _FOLDER = 0o100755, 0o040755


def build(kernel: Unpacked, job: Mapping[str, str]) -> bytes:
    """A gzipped cpio archive. `job` is what the script in the machine finds in /job as NAME='VALUE'."""
    modules = _needed(kernel.modules)
    lines = [f"{name}='{value}'\n" for name, value in job.items()]
    files = {
        "init": (HERE / "init.sh").read_bytes(),
        "bin/busybox": BUSYBOX.read_bytes(),
        "job": "".join(lines).encode(),
        "order": "".join(f"{name}\n" for name in modules).encode(),
        **{f"modules/{name}": content for name, content in modules.items()},
    }
    return gzip.compress(_cpio(files), compresslevel=1)


def greeting() -> bytes:
    """One whose first process says `GREETING` and turns the machine off."""
    script = b"#!/bin/busybox sh\n/bin/busybox echo %s\n/bin/busybox poweroff -f\n" % GREETING
    return gzip.compress(_cpio({"init": script, "bin/busybox": BUSYBOX.read_bytes()}), compresslevel=1)


def _needed(folder: Path) -> dict[str, bytes]:
    """The modules and all that they depend on, in the order in which they load."""
    by_name, needs = {}, {}
    for line in (folder / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, dependencies = line.partition(":")
        by_name[Path(path).name.split(".ko")[0].replace("-", "_")] = path
        needs[path] = dependencies.split()
    found: dict[str, bytes] = {}
    for module in MODULES:
        if module in by_name:
            path = by_name[module]
            for one in (*reversed(needs[path]), path):
                found.setdefault(Path(one).name.split(".ko")[0], _module(folder / one))
    return found


def _module(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())
    if path.suffix == ".ko":
        return path.read_bytes()
    raise VmError(f"{path.name} is compressed in an unknown way")


def _cpio(files: Mapping[str, bytes]) -> bytes:
    """The "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    folders = sorted({str(parent) for path in files for parent in Path(path).parents} - {"."})
    out = bytearray()
    for name in folders:
        _add(out, name, _FOLDER, b"")
    for name, content in files.items():
        _add(out, name, _FILE, content)
    _add(out, "TRAILER!!!", 0, b"")
    return bytes(out)


def _add(out: bytearray, name: str, mode: int, content: bytes) -> None:
    path = os.fsencode(name) + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device, special device, length of the name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
    out += bytes(-len(out) % 4) + content
    out += bytes(-len(out) % 4)
