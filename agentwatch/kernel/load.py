"""From a compiled object to maps and programs in the kernel: fills in what the compiler left open."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agentwatch.kernel import bpf
from agentwatch.kernel.bpf import AttachType, Handle, MapType, ProgramType
from agentwatch.kernel.bytecode import Object, Program

_PSEUDO_MAP_FD, _PSEUDO_KFUNC_CALL = 1, 2
_IMMEDIATE = struct.Struct("<i")


class MapSpec(NamedTuple):
    """One map of the table. `id` is what the C calls it; sizes in bytes.

    `max_entries` of a ring is its size in bytes, a power of two and of the page size.
    """

    id: int
    name: str
    type: MapType
    key_size: int = 4
    value_size: int = 8
    max_entries: int = 0
    flags: int = 0


class ProgramSpec(NamedTuple):
    """How one function is loaded. `target` names the BTF entry that a tracing program attaches to, as
    in `Object.btf_ids`: "typedef btf_trace_sched_process_exit", "func bpf_iter_task"."""

    name: str
    type: ProgramType
    attach_type: AttachType = AttachType.NONE
    target: str = ""


class UnknownTarget(LookupError):
    """This kernel lacks the tracepoint, iterator or kernel function that a program needs."""


def create_maps(table: Iterable[MapSpec]) -> dict[int, Handle]:
    """The maps by id. Raises `BpfError` and leaves none behind."""
    maps: dict[int, Handle] = {}
    try:
        for spec in table:
            maps[spec.id] = bpf.create_map(
                spec.name,
                spec.type,
                key_size=spec.key_size,
                value_size=spec.value_size,
                max_entries=spec.max_entries,
                flags=spec.flags,
            )
    except BaseException:
        for handle in maps.values():
            handle.close()
        raise
    return maps


def load_program(
    compiled: Object, spec: ProgramSpec, maps: Mapping[int, Handle], kfuncs: Mapping[int, str] | None = None
) -> Handle:
    """Load one function of `compiled`. `kfuncs` gives the kernel function behind each helper number.

    Raises `BpfError`, or `UnknownTarget` where the kernel lacks what the program needs.
    """
    return bpf.load_program(spec.name, spec.type, *_prepared(compiled, spec, maps, kfuncs or {}))


def verifier_log(
    compiled: Object, spec: ProgramSpec, maps: Mapping[int, Handle], kfuncs: Mapping[int, str] | None = None
) -> str:
    """What the verifier has to say of a program that it takes; slow. Raises as `load_program` does."""
    return bpf.verifier_log(spec.name, spec.type, *_prepared(compiled, spec, maps, kfuncs or {}))


def _prepared(
    compiled: Object, spec: ProgramSpec, maps: Mapping[int, Handle], kfuncs: Mapping[int, str]
) -> tuple[bytes, bpf.AttachType, int]:
    """The code with maps and kernel functions filled in, how it attaches, and the BTF id of its target."""
    target = _btf_id(compiled, spec.target, spec.name) if spec.target else 0
    program = compiled.programs.get(spec.name)
    if program is None:  # left out by its #ifdef
        raise UnknownTarget(f"{spec.name} needs types that this kernel lacks")
    calls = {number: _btf_id(compiled, f"func {kfuncs[number]}", spec.name) for _, number in program.kfuncs}
    code = _linked(program, {id: maps[id].fileno() for _, id in program.maps}, calls)
    return code, spec.attach_type, target


def _btf_id(compiled: Object, key: str, program: str) -> int:
    try:
        return compiled.btf_ids[key]
    except KeyError:
        raise UnknownTarget(f"{program} needs {key}, which this kernel lacks") from None


def _linked(program: Program, map_fds: Mapping[int, int], kfunc_ids: Mapping[int, int]) -> bytes:
    code = bytearray(program.code)
    for offset, map_id in program.maps:
        _set(code, offset, _PSEUDO_MAP_FD, map_fds[map_id])
    for offset, number in program.kfuncs:
        _set(code, offset, _PSEUDO_KFUNC_CALL, kfunc_ids[number])
    return bytes(code)


def _set(code: bytearray, offset: int, source: int, immediate: int) -> None:
    """Write the source register (what kind of immediate it is) and the immediate of struct bpf_insn."""
    code[offset + 1] = code[offset + 1] & 0x0F | source << 4
    _IMMEDIATE.pack_into(code, offset + 4, immediate)
