"""The table of kernels, and what becomes of a package."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from vmtests.kernels import APT_HELPER, ARCHIVES, Kernel, VmError, read_table, unpacked

needs_apt = pytest.mark.skipif(not Path(APT_HELPER).exists(), reason="needs apt")
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="the table is TOML: Python 3.11")


def test_the_table_has_two_defaults_and_no_name_twice() -> None:
    table, modes = read_table()
    assert sum(kernel.default for kernel in table) == 2
    assert [mode.name for mode in modes if mode.default] == ["unified"]
    assert len({kernel.name for kernel in table}) == len(table)
    assert all(len(bytes.fromhex(kernel.sha256)) == 32 for kernel in table)
    assert {mode.cgroup for mode in modes} == {"unified", "hybrid"}


def package(folder: Path, name: str, file: str) -> tuple[str, str]:
    """Name and SHA-256 of a package as archives have them, with one file, in `folder`."""
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        "Description: none\n"
    )
    (tree / file).parent.mkdir(parents=True)
    (tree / file).write_bytes(b"content")
    subprocess.run(["dpkg-deb", "--build", str(tree), str(folder)], check=True, capture_output=True)
    made = folder / f"{name}_1_all.deb"
    return made.name, hashlib.sha256(made.read_bytes()).hexdigest()


@needs_apt
def test_a_package_that_is_not_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, digest = package(tmp_path, "linux-image-1-test", "boot/vmlinuz-1-test")
    modules = package(tmp_path, "linux-modules-1-test", "lib/modules/1-test/kernel/one.ko")
    cache = tmp_path / "cache"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "depmod").write_text("#!/bin/sh\n")
    (tools / "depmod").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv(ARCHIVES, f"file://{tmp_path}/")
    with pytest.raises(VmError, match="Hash Sum mismatch"):
        unpacked(Kernel("test", tmp_path.name, image, "00" * 32, modules=[modules]), cache)
    assert not list(cache.glob("*.deb"))
    kernel = unpacked(Kernel("test", tmp_path.name, image, digest, modules=[modules]), cache)
    assert kernel.release == "1-test"
    assert kernel.image.read_bytes() == b"content"
    assert (kernel.modules / "kernel/one.ko").exists()


@needs_apt
def test_an_archive_that_nobody_knows_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ARCHIVES, raising=False)
    with pytest.raises(VmError, match=f"no archive called nowhere: name the URL of one in {ARCHIVES}"):
        unpacked(Kernel("test", "nowhere", "image.deb", "00" * 32), tmp_path / "cache")
