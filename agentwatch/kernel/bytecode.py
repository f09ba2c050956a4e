"""Compiled probes as the cache keeps them and the loader takes them; free of the compiler itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from agentwatch.kernel.errors import KernelError

VMLINUX = Path("/sys/kernel/btf/vmlinux")
"""The running kernel's own types (BTF)."""

Spec = Mapping[str, Sequence[str]]
"""The fields wanted of each struct, union or typedef of one."""


class BuildError(KernelError):
    """The probes cannot be made for this kernel."""


class CompileError(BuildError):
    """The source does not compile; the text holds the compiler's diagnostics."""


class BccMissing(CompileError):
    """BCC's Python bindings are not installed for this interpreter."""


class Program(NamedTuple):
    """One function's bytecode, `struct bpf_insn` after `struct bpf_insn`.

    `maps` are (byte offset of the instruction, map id), `kfuncs` (byte offset, helper number).
    """

    name: str
    code: bytes
    maps: tuple[tuple[int, int], ...] = ()
    kfuncs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Object:
    """What one compilation gave. `btf_ids` are ids of the running kernel's types, by "kind name"."""

    programs: Mapping[str, Program]
    btf_ids: Mapping[str, int] = field(default_factory=dict)

    def pack(self) -> bytes:
        """As msgpack."""
        programs = [[p.name, p.code, p.maps, p.kfuncs] for p in self.programs.values()]
        packed: bytes = msgpack.packb([programs, dict(self.btf_ids)])
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Object:
        """What `pack` gave. Raises `ValueError` for anything else."""
        try:
            programs, btf_ids = msgpack.unpackb(data)
            parsed = [Program(str(name), bytes(code), _pairs(m), _pairs(k)) for name, code, m, k in programs]
            return cls({p.name: p for p in parsed}, {str(name): int(id) for name, id in btf_ids.items()})
        except (TypeError, AttributeError, msgpack.UnpackException) as error:
            raise ValueError(f"not a compiled object: {error}") from error


def _pairs(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(offset), int(number)) for offset, number in value)
