"""The table of kernels, and what becomes of a package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from vmtests import kernels
from vmtests.kernels import APT_HELPER, Kernel, VmError, read_table, unpacked

needs_apt = pytest.mark.skipif(not Path(APT_HELPER).exists(), reason="needs apt")
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the table is TOML: Python 3.11")


def test_the_table_has_two_defaults_and_no_name_twice() -> None:
    table, modes = read_table()
    assert sum(kernel.default for kernel in table) == 2
    assert [mode.name for mode in modes if mode.default] == ["unified"]
    assert len({kernel.name for kernel in table}) == len(table)
    assert all(len(bytes.fromhex(kernel.sha256)) == 32 for kernel in table)
    assert {mode.cgroup for mode in modes} == {"unified", "hybrid"}


def package(folder: Path) -> Path:
    """A package as the archive has them, with one module, in `folder`."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: linux-image-1-test\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        "Description: none\n"
    )
    (tree / "boot").mkdir()
    (tree / "boot/vmlinuz-1-test").write_bytes(b"image")
    (tree / "lib/modules/1-test/kernel").mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--build", str(tree), str(folder)], check=True, capture_output=True)
    return folder / "linux-image-1-test_1_all.deb"


@needs_apt
def test_a_package_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = package(tmp_path)
    cache = tmp_path / "cache"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "depmod").write_text("#!/bin/sh\n")
    (tools / "depmod").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(kernels, "_archive", lambda name: f"file:{tmp_path}")
    with pytest.raises(VmError, match="Hash Sum mismatch"):
        unpacked(Kernel("test", "any", found.name, "00" * 32), cache)
    assert not list(cache.glob("*.deb"))
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    kernel = unpacked(Kernel("test", "any", found.name, digest), cache)
    assert kernel.release == "1-test"
    assert kernel.image.read_bytes() == b"image"
