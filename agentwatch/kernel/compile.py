"""Compile eBPF C with BCC, in a child process, into bytecode that can be kept and loaded without LLVM.

The C names what only the loader knows by small numbers, which are left in the bytecode as
relocations:
- a map is `((void *)bpf_pseudo_fd(1, ID))`, the table of maps living in Python;
- a kernel function (kfunc) is a helper whose number is `KFUNC_BASE` or more.

No function may have a name that begins with kprobe__, tracepoint__, raw_tracepoint__, kfunc__ or
lsm__: BCC would load and attach it by itself. No kernel headers are needed: BCC reads the stub
tree, the kernel's types come as a generated header (`agentwatch.kernel.types_header`).
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgpack  # type: ignore[import-untyped]

from agentwatch.kernel import bcc_child
from agentwatch.kernel.backedges import jumped_back
from agentwatch.kernel.bytecode import BccMissing, CompileError, Object, Program

KFUNC_BASE = 900_000
"""Helper numbers from here on stand for kernel functions."""

TIME_LIMIT = 120  # seconds; a cold compile takes 0.3 s
_INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn: code, registers (dst | src << 4), off, imm
_LD_IMM64, _CALL = 0x18, 0x85
_PSEUDO_MAP_FD, _PSEUDO_CALL = 1, 1


def compile_object(
    text: str,
    *,
    stub: Path,
    include_dirs: Sequence[Path] = (),
    headers: Mapping[str, str] | None = None,
    cflags: Sequence[str] = (),
) -> Object:
    """Compile `text`; every function that is not static becomes a program.

    `stub` is the folder that BCC takes for the kernel's headers, `headers` are generated files by
    the name under which the source includes them. Raises `CompileError` or `BccMissing`.
    """
    if not (stub / "include/linux/kconfig.h").is_file():  # BCC would run modprobe and tar instead
        raise CompileError(f"{stub} is not the stub of the kernel's headers")
    with tempfile.TemporaryDirectory(prefix="agentwatch-") as generated:
        for name, content in (headers or {}).items():
            Path(generated, name).write_text(content, encoding="utf-8")
        includes = [f"-I{path}" for path in (generated, *include_dirs)]
        # A helper that this BCC does not know would be a call of a function that is not there.
        code = _run_compiler(text, ["-Werror=implicit-function-declaration", *cflags, *includes], stub)
    return Object({name: _program(name, instructions) for name, instructions in code.items()})


def _run_compiler(text: str, cflags: Sequence[str], stub: Path) -> dict[str, bytes]:
    # -I: a folder that an agent can write (the working directory) never gets onto the import path.
    command = [sys.executable, "-I", bcc_child.__file__]
    environment = {"BCC_KERNEL_SOURCE": str(stub.resolve()), "LC_ALL": "C", "PATH": os.defpath}
    request = json.dumps({"text": text, "cflags": list(cflags)}).encode()
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, env=environment, timeout=TIME_LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"the compiler did not end within {TIME_LIMIT} s") from error
    diagnostics = done.stderr.decode(errors="replace").strip()
    if done.returncode == bcc_child.NO_BCC:
        raise BccMissing(
            "BCC is missing: install the distribution's python3-bpfcc (Debian, Ubuntu) or python3-bcc "
            f"(Fedora), and use the system's Python with system site packages ({diagnostics})"
        )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise CompileError(f"the compiler was ended by {name}\n{diagnostics}".rstrip())
    if done.returncode:
        raise CompileError(diagnostics or f"the compiler failed with status {done.returncode}")
    code: dict[str, bytes] = msgpack.unpackb(done.stdout)
    return code


def _program(name: str, code: bytes) -> Program:
    """Find what the loader must fill in. Raises `CompileError` for calls that were not inlined."""
    code = jumped_back(code)
    maps, kfuncs = [], []
    for offset in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, _, immediate = _INSTRUCTION.unpack_from(code, offset)
        source = registers >> 4
        if opcode == _LD_IMM64 and source == _PSEUDO_MAP_FD:
            maps.append((offset, immediate))
        elif opcode == _CALL and source == _PSEUDO_CALL:
            raise CompileError(f"{name} calls a function that was not inlined")
        elif opcode == _CALL and immediate >= KFUNC_BASE:
            kfuncs.append((offset, immediate))
    return Program(name, code, tuple(maps), tuple(kfuncs))
