"""Programs run in the running kernel, from the compiled object to what they counted."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Iterator

import pytest

from agentwatch.kernel import bpf
from agentwatch.kernel.bpf import AttachType, BpfError, Handle, MapType, ProgramType
from agentwatch.kernel.bytecode import Object, Program
from agentwatch.kernel.load import (
    MapSpec,
    ProgramSpec,
    UnknownTarget,
    create_maps,
    load_program,
    verifier_log,
)
from tests.kernel.conftest import open_descriptors

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="loading eBPF needs root")]

COUNTS, TAGS = 7001, 7002
TABLE = (
    MapSpec(COUNTS, "counts", MapType.ARRAY, max_entries=8),
    MapSpec(TAGS, "tags", MapType.TASK_STORAGE),
)
KFUNCS = {900001: "bpf_rdonly_cast"}
TRACE = (ProgramType.TRACING, AttachType.TRACE_RAW_TP)
COUNT_EXIT = ProgramSpec("count_exit", *TRACE, "typedef btf_trace_sched_process_exit")
TAG_ON_EXEC = ProgramSpec("tag_on_exec", *TRACE, "typedef btf_trace_sched_process_exec")
LIST_TASKS = ProgramSpec("list_tasks", ProgramType.TRACING, AttachType.TRACE_ITER, "func bpf_iter_task")


@pytest.fixture
def maps() -> Iterator[dict[int, Handle]]:
    made = create_maps(TABLE)
    yield made
    for handle in made.values():
        handle.close()


def count(maps: dict[int, Handle], key: int) -> int:
    value = bpf.map_lookup(maps[COUNTS], struct.pack("<I", key), 8)
    assert value is not None
    return int.from_bytes(value, "little")


def test_the_verifier_tells_of_each_instruction(compiled: Object, maps: dict[int, Handle]) -> None:
    with load_program(compiled, COUNT_EXIT, maps) as exits:
        verified = bpf.program_info(exits).verified_instructions
    log = verifier_log(compiled, COUNT_EXIT, maps)
    assert f"processed {verified} insns" in log
    assert log.count("\n") > verified


def test_task_storage_kernel_functions_and_tracepoints_work_together(
    compiled: Object, maps: dict[int, Handle]
) -> None:
    with (
        load_program(compiled, TAG_ON_EXEC, maps, KFUNCS) as tag,
        load_program(compiled, COUNT_EXIT, maps) as exits,
        bpf.attach_tracing(tag),
        bpf.attach_tracing(exits),
        bpf.enable_stats(),
    ):
        child = subprocess.Popen(["/bin/true"])
        child.wait()
        info = bpf.program_info(exits)
    assert count(maps, 0) >= 1
    assert info.run_count >= 1
    assert info.run_time_ns > 0
    assert info.jited_bytes > 0


def test_closing_a_link_detaches(compiled: Object, maps: dict[int, Handle]) -> None:
    with load_program(compiled, TAG_ON_EXEC, maps, KFUNCS) as tag:
        bpf.attach_tracing(tag).close()
        subprocess.run(["/bin/true"], check=True)
    assert count(maps, 2) == 0


def test_an_iterator_lists_this_process(compiled: Object, maps: dict[int, Handle]) -> None:
    with load_program(compiled, LIST_TASKS, maps) as program, bpf.attach_iterator(program) as link:
        tasks = {tgid for _, tgid, _ in struct.iter_unpack("<IIQ", bpf.iterate(link))}
    assert {os.getpid(), os.getppid()} <= tasks


def test_the_verifiers_log_is_in_the_error(maps: dict[int, Handle]) -> None:
    code = bytes.fromhex("9500000000000000")  # exit without a value in r0
    broken = Object({"broken": Program("broken", code)})
    with pytest.raises(BpfError, match=r"load program broken.*\n(.*\n)*.*R0 !read_ok") as caught:
        load_program(broken, ProgramSpec("broken", ProgramType.SOCKET_FILTER), maps)
    assert caught.value.errno == errno.EACCES
    assert "R0" in caught.value.log


def test_a_missing_target_is_named(compiled: Object, maps: dict[int, Handle]) -> None:
    spec = ProgramSpec("count_exit", *TRACE, "typedef btf_trace_no_such_event")
    with pytest.raises(UnknownTarget, match="count_exit needs typedef btf_trace_no_such_event"):
        load_program(compiled, spec, maps)


def test_a_failed_table_leaves_no_map(compiled: Object) -> None:
    before = open_descriptors()
    with pytest.raises(BpfError, match="create map bad"):
        create_maps([*TABLE, MapSpec(9, "bad", MapType.RINGBUF, 0, 0, 1000)])
    assert open_descriptors() == before


@pytest.mark.parametrize("type", [MapType.TASK_STORAGE, MapType.SK_STORAGE, MapType.CGRP_STORAGE])
def test_local_storage_of_any_value_size(type: MapType) -> None:
    with bpf.create_map("storage", type, key_size=4, value_size=40, max_entries=0) as map:
        assert bpf.object_id(map) > 0


def test_elements_of_a_hash_map() -> None:
    with bpf.create_map("hash", MapType.HASH, key_size=2, value_size=3, max_entries=4) as map:
        assert bpf.map_lookup(map, b"ab", 3) is None
        bpf.map_update(map, b"ab", b"123")
        bpf.map_update(map, b"\0c", b"\0\0\0")
        assert bpf.map_lookup(map, b"ab", 3) == b"123"
        assert set(bpf.map_keys(map, 2)) == {b"ab", b"\0c"}
        assert bpf.map_delete(map, b"ab")
        assert not bpf.map_delete(map, b"ab")
        assert list(bpf.map_keys(map, 2)) == [b"\0c"]


def test_a_per_cpu_element_has_a_value_for_every_cpu() -> None:
    size = 8 * bpf.possible_cpus()
    with bpf.create_map("per_cpu", MapType.PERCPU_ARRAY, key_size=4, value_size=8, max_entries=1) as map:
        values = os.urandom(size)
        bpf.map_update(map, bytes(4), values)
        assert bpf.map_lookup(map, bytes(4), size) == values


def test_a_closed_handle_is_refused() -> None:
    handle = bpf.create_map("hash", MapType.HASH, key_size=2, value_size=3, max_entries=4)
    handle.close()
    handle.close()
    with pytest.raises(ValueError, match="closed"):
        bpf.map_delete(handle, b"ab")
