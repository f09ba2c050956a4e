from __future__ import annotations

import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.kernel import bcc_child
from agentwatch.kernel.btf import KernelTypes
from agentwatch.kernel.bytecode import BccMissing, CompileError, Object, Program
from agentwatch.kernel.compile import compile_object
from tests.kernel.conftest import RECIPE, STUB, children, needs_bcc, open_descriptors


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that takes the place of the compiler process."""
    script = tmp_path / "child.py"
    monkeypatch.setattr(bcc_child, "__file__", str(script))
    return script


def test_every_public_function_is_a_program(compiled: Object) -> None:
    assert set(compiled.programs) == {"count_exit", "list_tasks", "tag_connector", "tag_on_exec"}


def test_maps_and_kernel_functions_are_relocations(compiled: Object) -> None:
    assert {map for _, map in compiled.programs["count_exit"].maps} == {7001, 7002}
    assert [number for _, number in compiled.programs["tag_on_exec"].kfuncs] == [900001]
    assert not compiled.programs["tag_connector"].maps


def test_fields_are_read_where_the_running_kernel_has_them(
    compiled: Object, kernel_types: KernelTypes
) -> None:
    """Padding that the compiler and the kernel see differently would show here and nowhere else."""
    code = compiled.programs["list_tasks"].code
    loads = {offset for opcode, _, offset, _ in struct.iter_unpack("<BBhi", code) if opcode & 7 == 1}
    wanted = {kernel_types.member("task_struct", name).offset for name in RECIPE.required["task_struct"]}
    assert wanted <= loads


@needs_bcc
def test_diagnostics_come_back() -> None:
    with pytest.raises(CompileError, match=r"unknown type name 'u63'"):
        compile_object("int f(u63 *ctx) { return 0; }", stub=STUB)


@needs_bcc
def test_a_helper_that_bcc_does_not_know_is_named() -> None:
    with pytest.raises(CompileError, match="bpf_unheard_of"):
        compile_object("int f(void *ctx) { return bpf_unheard_of(ctx); }", stub=STUB)


@needs_bcc
def test_generated_headers_flags_and_folders_reach_the_compiler(tmp_path: Path) -> None:
    (tmp_path / "folder.h").write_text("#define IN_FOLDER 1\n")
    text = '#include "made.h"\n#include "folder.h"\nint f(void *c) { return MADE + IN_FOLDER + FLAG; }'
    compiled = compile_object(
        text, stub=STUB, include_dirs=[tmp_path], headers={"made.h": "#define MADE 2\n"}, cflags=["-DFLAG=4"]
    )
    assert compiled.programs["f"].code[:8] == struct.pack("<BBhi", 0xB7, 0, 0, 7)  # r0 = 7


@needs_bcc
def test_llvm_stays_out_of_this_process() -> None:
    compile_object("int f(void *c) { return 0; }", stub=STUB)
    assert "libbcc" not in Path("/proc/self/maps").read_text()
    assert "bcc" not in sys.modules


@needs_bcc
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = open_descriptors(), children()
    compile_object("int f(void *c) { return 0; }", stub=STUB, headers={"a.h": ""})
    assert not list(tmp_path.iterdir())
    assert (open_descriptors(), children()) == before


def test_a_folder_that_is_no_stub_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="stub"):
        compile_object("int f(void *c) { return 0; }", stub=tmp_path)


def test_a_compiler_that_crashes_is_reported(stand_in: Path) -> None:
    stand_in.write_text(
        f"import os; print('last words', flush=True); os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    )
    with pytest.raises(CompileError, match="SIGSEGV"):
        compile_object("", stub=STUB)


def test_a_missing_bcc_says_what_to_install(stand_in: Path) -> None:
    original = Path(bcc_child.main.__code__.co_filename).read_text()
    stand_in.write_text(original.replace("from bcc import BPF", "from no_such_bcc import BPF"))
    with pytest.raises(BccMissing, match="python3-bpfcc"):
        compile_object("", stub=STUB)


numbers = st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 30))
programs = st.builds(
    Program,
    st.text(min_size=1),
    st.binary(),
    st.lists(numbers).map(tuple),
    st.lists(numbers).map(tuple),
)


@given(st.lists(programs, unique_by=lambda p: p.name), st.dictionaries(st.text(), st.integers(0, 1 << 30)))
def test_an_object_survives_packing(members: list[Program], ids: dict[str, int]) -> None:
    whole = Object({p.name: p for p in members}, ids)
    assert Object.unpack(whole.pack()) == whole


@given(st.binary())
def test_unpacking_rubbish_raises_nothing_but_value_errors(data: bytes) -> None:
    with suppress(ValueError):
        assert Object.unpack(data).pack()
