from __future__ import annotations

import logging
import os
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from agentwatch.kernel.bytecode import Object, Program
from agentwatch.kernel.cache import Recipe, bcc_version, cached_object
from tests.kernel.conftest import RECIPE, needs_bcc

BUILT = Object({"f": Program("f", b"\x95" + bytes(7))}, {"func f": 7})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "probes"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Stands for the compiler; lists the BTF of every compilation asked for."""
    asked: list[bytes] = []

    def build(_: Recipe, btf: bytes) -> Object:
        asked.append(btf)
        return BUILT

    monkeypatch.setattr(Recipe, "build", build)
    return asked


@pytest.fixture
def btf(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"types of a kernel")
    return path


def test_the_second_time_nothing_is_built(folder: Path, btf: Path, builds: list[bytes]) -> None:
    assert cached_object(RECIPE, folder, btf) == cached_object(RECIPE, folder, btf) == BUILT
    assert len(builds) == 1


def test_the_folder_and_file_are_this_users_alone(folder: Path, btf: Path, builds: list[bytes]) -> None:
    cached_object(RECIPE, folder, btf)
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_another_kernel_is_another_build(folder: Path, btf: Path, builds: list[bytes]) -> None:
    cached_object(RECIPE, folder, btf)
    btf.write_bytes(b"types of another")
    cached_object(RECIPE, folder, btf)
    assert builds == [b"types of a kernel", b"types of another"]


@pytest.mark.parametrize(
    "change",
    [
        {"text": "int f;"},
        {"cflags": ("-DX",)},
        {"headers": {"a.h": ""}},
        {"required": {"task_struct": ["pid"]}},
        {"optional": {}},
        {"btf_ids": ()},
    ],
)
def test_every_input_is_part_of_the_key(change: dict[str, object]) -> None:
    changed = replace(RECIPE, **change)  # type: ignore[arg-type]
    assert changed.digest() != RECIPE.digest()


def test_included_files_are_part_of_the_key(tmp_path: Path) -> None:
    header = tmp_path / "a.h"
    header.write_text("1")
    recipe = replace(RECIPE, include_dirs=(tmp_path,))
    before = recipe.digest()
    header.write_text("2")
    assert recipe.digest() != before


def test_the_bcc_version_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RECIPE.digest()
    monkeypatch.setattr("agentwatch.kernel.cache.bcc_version", lambda: b"another")
    assert RECIPE.digest() != before


@needs_bcc
def test_the_bcc_version_is_known_without_loading_it() -> None:
    assert b"version" in bcc_version()
    assert "bcc" not in sys.modules


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_damaged_file_is_built_again(
    folder: Path, btf: Path, builds: list[bytes], damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    cached_object(RECIPE, folder, btf)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    assert cached_object(RECIPE, folder, btf) == BUILT
    assert "damaged" in caplog.text
    assert file.read_bytes() == whole
    assert len(builds) == 2


def test_a_file_of_another_recipe_is_refused(folder: Path, btf: Path, builds: list[bytes]) -> None:
    cached_object(RECIPE, folder, btf)
    (file,) = folder.iterdir()
    other = replace(RECIPE, text="int other;")
    cached_object(other, folder, btf)
    (of_other,) = set(folder.iterdir()) - {file}
    file.replace(of_other)
    cached_object(other, folder, btf)
    assert len(builds) == 3


@pytest.mark.parametrize(("what", "mode"), list(product(["folder", "file"], [0o770, 0o707])))
def test_what_others_can_write_is_refused(
    folder: Path, btf: Path, builds: list[bytes], what: str, mode: int
) -> None:
    cached_object(RECIPE, folder, btf)
    (file,) = folder.iterdir()
    (folder if what == "folder" else file).chmod(mode)
    cached_object(RECIPE, folder, btf)
    assert len(builds) == 2


@pytest.mark.parametrize("what", ["folder", "file"])
def test_symbolic_links_are_refused(folder: Path, btf: Path, builds: list[bytes], what: str) -> None:
    cached_object(RECIPE, folder, btf)
    (file,) = folder.iterdir()
    replaced = folder if what == "folder" else file
    elsewhere = replaced.rename(replaced.with_name("elsewhere"))
    replaced.symlink_to(elsewhere)
    cached_object(RECIPE, folder, btf)
    assert len(builds) == 2


def test_a_folder_above_that_others_can_write_is_refused(
    folder: Path, btf: Path, builds: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir()
    folder.parent.chmod(0o777)
    cached_object(RECIPE, folder, btf)
    cached_object(RECIPE, folder, btf)
    assert "writable by others" in caplog.text
    assert len(builds) == 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["above", "folder", "file"])
def test_what_belongs_to_another_user_is_refused(
    folder: Path, btf: Path, builds: list[bytes], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    cached_object(RECIPE, folder, btf)
    (file,) = folder.iterdir()
    os.chown({"above": folder.parent, "folder": folder, "file": file}[what], 65534, -1)
    cached_object(RECIPE, folder, btf)
    assert "belongs to user 65534" in caplog.text
    assert len(builds) == 2


def test_a_folder_that_cannot_be_made_costs_only_a_message(
    tmp_path: Path, btf: Path, builds: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert cached_object(RECIPE, tmp_path / "file" / "probes", btf) == BUILT
    assert "not kept" in caplog.text


def test_old_objects_go(folder: Path, btf: Path, builds: list[bytes]) -> None:
    for number in range(12):
        cached_object(replace(RECIPE, text=str(number)), folder, btf)
    assert len(list(folder.iterdir())) == 8
    cached_object(replace(RECIPE, text="11"), folder, btf)
    assert len(builds) == 12


def test_a_built_object_knows_the_ids_that_the_kernel_has(compiled: Object) -> None:
    assert compiled.btf_ids["func bpf_iter_task"] > 0
    assert "func no_such_function" not in compiled.btf_ids
