"""The first root file system of a machine."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
from vmtests import initramfs
from vmtests.kernels import Unpacked

busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox")


def modules(folder: Path) -> Unpacked:
    """A kernel whose virtiofs needs fuse, and whose overlay is built in."""
    (folder / "kernel").mkdir(parents=True)
    (folder / "kernel/fuse.ko").write_bytes(b"fuse")
    (folder / "kernel/virtiofs.ko.xz").write_bytes(lzma.compress(b"virtiofs"))
    (folder / "modules.dep").write_text(
        "kernel/virtiofs.ko.xz: kernel/fuse.ko\nkernel/fuse.ko:\nkernel/other.ko: kernel/fuse.ko\n"
    )
    return Unpacked("1-test", folder / "vmlinuz", folder)


@busybox
def test_it_holds_the_modules_in_the_order_in_which_they_load(tmp_path: Path) -> None:
    image = initramfs.build(modules(tmp_path / "modules"), {"ROOT": "/somewhere", "JOB": "probes demo"})
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack = ["busybox", "cpio", "-idm", "--quiet"]
    subprocess.run(unpack, input=gzip.decompress(image), cwd=inside, check=True)
    assert (inside / "order").read_text() == "fuse\nvirtiofs\n"
    assert (inside / "modules/fuse").read_bytes() == b"fuse"
    assert (inside / "modules/virtiofs").read_bytes() == b"virtiofs"
    said = subprocess.run(["sh", "-c", '. ./job; echo "$JOB"'], cwd=inside, check=True, capture_output=True)
    assert said.stdout == b"probes demo\n"
    assert (inside / "init").stat().st_mode & 0o111
