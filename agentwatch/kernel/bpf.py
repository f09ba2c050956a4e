"""bpf(2) through libbpf's low-level functions, which hide the attribute layouts.

libbpf.so.1 everywhere but on Ubuntu 22.04, whose libbpf.so.0 (0.5) has older names for creating maps
and loading programs; both are behind the same Python functions. Every failed call raises `BpfError`.
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import TracebackType

from agentwatch.kernel.errors import KernelError

_LOG_SIZE = (1 << 24) - 1  # bytes of verifier log: kernels before 6.4 keep its beginning, the end counts
_LOG_TAIL = 4000  # characters of it that are shown
_NAME_LENGTH = 15  # BPF_OBJ_NAME_LEN - 1


class MapType(IntEnum):
    """enum bpf_map_type"""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    CGROUP_ARRAY = 8
    LRU_HASH = 9
    LPM_TRIE = 11
    CGROUP_STORAGE = 19
    SK_STORAGE = 24
    RINGBUF = 27
    INODE_STORAGE = 28
    TASK_STORAGE = 29
    CGRP_STORAGE = 32


class ProgramType(IntEnum):
    """enum bpf_prog_type"""

    SOCKET_FILTER = 1
    KPROBE = 2
    TRACEPOINT = 5
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    CGROUP_DEVICE = 15
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    CGROUP_SYSCTL = 23
    CGROUP_SOCKOPT = 25
    TRACING = 26
    LSM = 29
    SYSCALL = 31


class AttachType(IntEnum):
    """enum bpf_attach_type"""

    CGROUP_INET_INGRESS = 0
    NONE = 0  # for the types of program that have one way to attach
    CGROUP_INET_EGRESS = 1
    CGROUP_INET_SOCK_CREATE = 2
    CGROUP_SOCK_OPS = 3
    CGROUP_DEVICE = 6
    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_INET4_POST_BIND = 12
    CGROUP_INET6_POST_BIND = 13
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_SYSCTL = 18
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_GETSOCKOPT = 21
    CGROUP_SETSOCKOPT = 22
    TRACE_RAW_TP = 23
    TRACE_FENTRY = 24
    TRACE_FEXIT = 25
    MODIFY_RETURN = 26
    LSM_MAC = 27
    TRACE_ITER = 28
    CGROUP_INET_SOCK_RELEASE = 34
    CGROUP_UNIX_CONNECT = 49
    CGROUP_UNIX_SENDMSG = 50


# Local storage wants a BTF type for key and value, and BPF_F_NO_PREALLOC.
_STORAGE = frozenset((MapType.SK_STORAGE, MapType.INODE_STORAGE, MapType.TASK_STORAGE, MapType.CGRP_STORAGE))
NO_PREALLOC = 1  # BPF_F_NO_PREALLOC


class BpfError(KernelError, OSError):
    """A bpf(2) call failed. `what` says which, `log` is the end of the verifier's log, or empty."""

    def __init__(self, errno: int, what: str, log: str = "") -> None:
        super().__init__(errno, f"{what}: {os.strerror(errno)}" + (f"\n{log}" if log else ""))
        self.what = what
        self.log = log


class Handle:
    """Owns a file descriptor of a map, program or link: closing it lets go of the kernel's object."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor. Raises `ValueError` once closed."""
        if self._fd < 0:
            raise ValueError("the handle is closed")
        return self._fd

    def close(self) -> None:
        """Close it; again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _MapCreateOpts(ct.Structure):
    """struct bpf_map_create_opts (libbpf 1)"""

    _fields_ = (
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("map_extra", ct.c_uint64),
        ("numa_node", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
    )


class _ProgLoadOpts(ct.Structure):
    """struct bpf_prog_load_opts (libbpf 1), as far as 1.0 knew it"""

    _fields_ = (
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_int),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex", ct.c_uint32),
        ("kern_version", ct.c_uint32),
        ("attach_btf_id", ct.c_uint32),
        ("attach_prog_fd", ct.c_uint32),
        ("attach_btf_obj_fd", ct.c_uint32),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_void_p),
    )


class _CreateMapAttr(ct.Structure):
    """struct bpf_create_map_attr (libbpf 0.5)"""

    _fields_ = (
        ("name", ct.c_char_p),
        ("map_type", ct.c_int),
        ("map_flags", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("numa_node", ct.c_uint32),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
    )


class _LoadProgramAttr(ct.Structure):
    """struct bpf_load_program_attr (libbpf 0.5)"""

    _fields_ = (
        ("prog_type", ct.c_int),
        ("expected_attach_type", ct.c_int),
        ("name", ct.c_char_p),
        ("insns", ct.c_char_p),
        ("insns_cnt", ct.c_size_t),
        ("license", ct.c_char_p),
        ("kern_version", ct.c_uint32),  # or attach_prog_fd
        ("attach_btf_id", ct.c_uint32),  # or prog_ifindex
        ("prog_btf_fd", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
    )


class _Libbpf:
    """The shared library with the few functions whose names and layouts changed."""

    def __init__(self, library: ct.CDLL) -> None:
        self.library = library
        self.modern = hasattr(library, "bpf_map_create")
        library.libbpf_set_print(None)  # errors are raised, not printed
        for name in ("bpf_map_update_elem", "bpf_map_lookup_elem"):
            last = (ct.c_uint64,) if name == "bpf_map_update_elem" else ()
            getattr(library, name).argtypes = (ct.c_int, ct.c_char_p, ct.c_char_p, *last)
        library.bpf_map_delete_elem.argtypes = (ct.c_int, ct.c_char_p)
        library.bpf_map_get_next_key.argtypes = (ct.c_int, ct.c_char_p, ct.c_char_p)
        library.bpf_obj_get_info_by_fd.argtypes = (ct.c_int, ct.c_char_p, ct.POINTER(ct.c_uint32))
        library.bpf_link_create.argtypes = (ct.c_int, ct.c_int, ct.c_int, ct.c_void_p)
        library.bpf_raw_tracepoint_open.argtypes = (ct.c_char_p, ct.c_int)

    def map_create(self, type: int, name: bytes, sizes: tuple[int, int, int], flags: int, btf: int) -> int:
        """`sizes` are key size, value size, entries; `btf` a descriptor from `_storage_btf`, or 0."""
        key, value = (_BTF_KEY, _BTF_VALUE) if btf else (0, 0)
        if self.modern:
            opts = _MapCreateOpts(btf_fd=btf, btf_key_type_id=key, btf_value_type_id=value, map_flags=flags)
            opts.sz = ct.sizeof(opts)
            return int(self.library.bpf_map_create(type, name, *sizes, ct.byref(opts)))
        attr = _CreateMapAttr(name, type, flags, *sizes, 0, btf, key, value)
        return int(self.library.bpf_create_map_xattr(ct.byref(attr)))

    def prog_load(
        self,
        type: int,
        name: bytes,
        code: bytes,
        target: tuple[int, int],
        log: ct.Array[ct.c_char] | None,
        level: int = 1,
    ) -> int:
        """`target` is the attach type and the BTF id of what a tracing program attaches to; of a program that
        is taken, `log` holds the whole only at `level` 2."""
        attach_type, btf_id = target
        count, level = len(code) // 8, level if log else 0
        if self.modern:
            opts = _ProgLoadOpts(expected_attach_type=attach_type, attach_btf_id=btf_id, log_level=level)
            opts.sz = ct.sizeof(opts)
            if log is not None:
                opts.log_buf, opts.log_size = ct.addressof(log), len(log)
            load = self.library.bpf_prog_load
            return int(load(type, name, b"GPL", code, ct.c_size_t(count), ct.byref(opts)))
        attr = _LoadProgramAttr(type, attach_type, name, code, count, b"GPL", 0, btf_id, log_level=level)
        size = ct.c_size_t(len(log) if log is not None else 0)
        return int(self.library.bpf_load_program_xattr(ct.byref(attr), log, size))

    def btf_load(self, data: bytes) -> int:
        if self.modern:
            return int(self.library.bpf_btf_load(data, ct.c_size_t(len(data)), None))
        return int(self.library.bpf_load_btf(data, len(data), None, 0, False))


@cache
def _libbpf() -> _Libbpf:
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            return _Libbpf(ct.CDLL(name, use_errno=True))
        except OSError:
            continue
    raise BpfError(2, "libbpf is missing: install the distribution's libbpf1 (Ubuntu 22.04: libbpf0)")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise BpfError(ct.get_errno(), what)
    return result


# The smallest BTF with an `int` (key) and an array of u8 (value) of any size.
_BTF_KEY, _BTF_VALUE = 1, 3


def _storage_btf(value_size: int) -> Handle:
    strings = b"\0int\0u8\0"
    types = struct.pack("<4I", 1, 1 << 24, 4, 1 << 24 | 32)  # [1] int, signed, 32 bits
    types += struct.pack("<4I", 5, 1 << 24, 1, 8)  # [2] u8
    types += struct.pack("<3I3I", 0, 3 << 24, 0, 2, 1, value_size)  # [3] u8[value_size]
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    return Handle(_checked(_libbpf().btf_load(header + types + strings), "load a BTF for local storage"))


def create_map(
    name: str, type: MapType, *, key_size: int, value_size: int, max_entries: int, flags: int = 0
) -> Handle:
    """Make a map; sizes in bytes. Local storage takes key size 4 and 0 entries (BPF_MAP_CREATE)."""
    sizes, short = (key_size, value_size, max_entries), name.encode()[:_NAME_LENGTH]
    what = f"create map {name} ({type.name.lower()})"
    if type in _STORAGE:
        with _storage_btf(value_size) as btf:
            fd = _libbpf().map_create(type, short, sizes, flags | NO_PREALLOC, btf.fileno())
            return Handle(_checked(fd, what))
    return Handle(_checked(_libbpf().map_create(type, short, sizes, flags, 0), what))


def load_program(
    name: str, type: ProgramType, code: bytes, attach_type: AttachType = AttachType.NONE, btf_id: int = 0
) -> Handle:
    """Verify and load bytecode whose maps and kernel functions are filled in (BPF_PROG_LOAD).

    `btf_id` is the id of what a tracing program attaches to. Raises `BpfError` with the verifier's
    log, which is asked for only on a second attempt: writing it is slow.
    """
    short = name.encode()[:_NAME_LENGTH]
    fd = _libbpf().prog_load(type, short, code, (attach_type, btf_id), None)
    if fd >= 0:
        return Handle(fd)
    number = ct.get_errno()
    if number == errno.EPERM:  # not the verifier's word, which has no more to say
        raise BpfError(number, f"load program {name}")
    log = ct.create_string_buffer(_LOG_SIZE)
    fd = _libbpf().prog_load(type, short, code, (attach_type, btf_id), log)
    if fd >= 0:  # the first attempt met a passing lack of memory
        return Handle(fd)
    raise BpfError(number, f"load program {name}", log.value.decode(errors="replace").strip()[-_LOG_TAIL:])


def verifier_log(
    name: str, type: ProgramType, code: bytes, attach_type: AttachType = AttachType.NONE, btf_id: int = 0
) -> str:
    """All that the verifier says on loading a program that it takes. Raises `BpfError`: ENOSPC where that is
    more than 16 MiB."""
    log = ct.create_string_buffer(_LOG_SIZE)
    fd = _libbpf().prog_load(type, name.encode()[:_NAME_LENGTH], code, (attach_type, btf_id), log, 2)
    Handle(_checked(fd, f"load program {name}")).close()
    return log.value.decode(errors="replace")


def attach_cgroup(program: Handle, cgroup_fd: int, type: AttachType) -> Handle:
    """Attach to a cgroup and what lies below it, until the link is closed (BPF_LINK_CREATE)."""
    fd = _libbpf().library.bpf_link_create(program.fileno(), cgroup_fd, type, None)
    return Handle(_checked(fd, f"attach to a cgroup as {type.name.lower()}"))


def attach_tracing(program: Handle) -> Handle:
    """Attach a tp_btf, fentry, fexit or LSM program to what it was loaded for."""
    fd = _libbpf().library.bpf_raw_tracepoint_open(None, program.fileno())
    return Handle(_checked(fd, "attach a tracing program"))


def attach_iterator(program: Handle) -> Handle:
    """A link over all objects of the iterator's kind, for `iterate`."""
    fd = _libbpf().library.bpf_link_create(program.fileno(), 0, AttachType.TRACE_ITER, None)
    return Handle(_checked(fd, "attach an iterator"))


def iterate(link: Handle) -> bytes:
    """Run the iterator once; what it wrote with bpf_seq_write (BPF_ITER_CREATE)."""
    iterator = Handle(_checked(_libbpf().library.bpf_iter_create(link.fileno()), "create an iterator"))
    with iterator:
        chunks = []
        while chunk := os.read(iterator.fileno(), 1 << 16):
            chunks.append(chunk)
    return b"".join(chunks)


def map_update(map: Handle, key: bytes, value: bytes) -> None:
    """Set an element; of a per-CPU map `value` holds one for each possible CPU, padded to 8 bytes."""
    _checked(_libbpf().library.bpf_map_update_elem(map.fileno(), key, value, 0), "update a map")


def map_add(map: Handle, key: bytes, value: bytes) -> bool:
    """Make an element; False where there is one, which stays as it is (BPF_NOEXIST)."""
    if _libbpf().library.bpf_map_update_elem(map.fileno(), key, value, 1) < 0:
        if ct.get_errno() == errno.EEXIST:
            return False
        raise BpfError(ct.get_errno(), "add to a map")
    return True


def map_lookup(map: Handle, key: bytes, value_size: int) -> bytes | None:
    """The element, or None. `value_size` in bytes; per-CPU maps: padded to 8, times `possible_cpus()`."""
    value = ct.create_string_buffer(value_size)
    if _libbpf().library.bpf_map_lookup_elem(map.fileno(), key, value) < 0:
        if ct.get_errno() == 2:
            return None
        raise BpfError(ct.get_errno(), "look up in a map")
    return value.raw


def map_delete(map: Handle, key: bytes) -> bool:
    """Remove an element; False where there was none."""
    if _libbpf().library.bpf_map_delete_elem(map.fileno(), key) < 0:
        if ct.get_errno() == 2:
            return False
        raise BpfError(ct.get_errno(), "delete from a map")
    return True


def map_keys(map: Handle, key_size: int) -> Iterator[bytes]:
    """The keys. Those that come or go meanwhile may be missed or seen twice."""
    key, following = None, ct.create_string_buffer(key_size)
    while _libbpf().library.bpf_map_get_next_key(map.fileno(), key, following) >= 0:
        key = following.raw
        yield key
    if ct.get_errno() != 2:
        raise BpfError(ct.get_errno(), "walk a map")


def calls_kernel_functions() -> bool:
    """Whether programs may call kfuncs: they are made into machine code (net.core.bpf_jit_enable)."""
    try:
        return Path("/proc/sys/net/core/bpf_jit_enable").read_text(encoding="ascii").strip() != "0"
    except OSError:  # a kernel without the setting
        return True


@cache
def possible_cpus() -> int:
    """How many values an element of a per-CPU map has (/sys/devices/system/cpu/possible)."""
    ranges = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return int(ranges.strip().split(",")[-1].split("-")[-1]) + 1


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """struct bpf_prog_info in part. Times in ns; they and the count stand at 0 without `enable_stats`."""

    id: int
    run_time_ns: int
    run_count: int
    verified_instructions: int  # 0 before kernel 5.16
    jited_bytes: int


def program_info(program: Handle) -> ProgramInfo:
    """What the kernel says about a loaded program (BPF_OBJ_GET_INFO_BY_FD)."""
    info = _object_info(program, 224)
    id, jited = struct.unpack_from("<4xI8xI", info)
    run_time, run_count, verified = struct.unpack_from("<QQ8xI", info, 192)
    return ProgramInfo(id, run_time, run_count, verified, jited)


def object_id(handle: Handle) -> int:
    """The kernel's id of a map, program or link."""
    info = _object_info(handle, 8)
    first, second = struct.unpack("<II", info)
    return int(second if second else first)


def _object_info(handle: Handle, size: int) -> bytes:
    buffer, length = ct.create_string_buffer(size), ct.c_uint32(size)
    result = _libbpf().library.bpf_obj_get_info_by_fd(handle.fileno(), buffer, ct.byref(length))
    _checked(result, "ask for an object's information")
    return buffer.raw


def enable_stats() -> Handle:
    """Have the kernel time every program's runs until the handle is closed (BPF_ENABLE_STATS)."""
    return Handle(_checked(_libbpf().library.bpf_enable_stats(0), "enable program statistics"))
