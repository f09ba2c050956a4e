"""The probes: their maps, programs and kernel types in tables, compiled, loaded and attached.

Each program is tried on its own. One that this kernel refuses is left out, and `missing` says
which, why, and what is not seen without it; only those of `REQUIRED` must be there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from agentwatch.clock import now
from agentwatch.kernel import bpf, tracefs
from agentwatch.kernel.background import Background, results
from agentwatch.kernel.bpf import AttachType, BpfError, Handle, MapType, ProgramInfo, ProgramType
from agentwatch.kernel.bytecode import Object
from agentwatch.kernel.cache import Recipe, cached_object
from agentwatch.kernel.denials import BLOCKED, DENIALS, GUARDED, Denials
from agentwatch.kernel.errors import ProbeError
from agentwatch.kernel.load import MapSpec, ProgramSpec, UnknownTarget, create_maps, load_program
from agentwatch.resources import PROBES
from agentwatch.schema import c_header
from agentwatch.schema.events import (
    BY_NUMBER,
    RING_HEADER_SIZE,
    SLOT_SIZE,
    WATCHED_LEVELS,
    WATCHED_NAME,
    Namespace,
    Type,
)

MAX_AGENTS = 256  # numbers of agents run from 1 to MAX_AGENTS - 1; 0 stands for all of them
SLOTS_BYTES = 8 << 20
RECORDS_BYTES = 4 << 20
# The last part of each ring is kept for events that must not be crowded out.
SLOTS_ROUTINE = SLOTS_BYTES * 3 // 4
RECORDS_ROUTINE = RECORDS_BYTES * 3 // 4

_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, which storage maps demand
_CLONE = 1 << 9  # BPF_F_CLONE: a listener's storage is copied to the sockets it accepts
_FLOW = struct.Struct("<Q16s16sHHBBBB8Q2Q2Q2I2I2HHBB4H")  # struct flow
_FLOW_ANNOUNCED, _FLOW_FOUND = 16, 64
_TYPES = max(Type) + 1
_COUNT = struct.Struct("<QQ")  # struct count
_TASK_ROW = struct.Struct("<IIQQII")  # struct task_row
_FILE_ID = struct.Struct("<QII")  # struct file_id
_LOOK = struct.Struct("<16sII")  # struct look
_SCRATCH_BYTES = 2 * 16 + 512 + WATCHED_NAME + 8 + 4 * WATCHED_LEVELS + 16  # struct scratch
_SOCKET_ROW = struct.Struct("<IIQQHHHxx")  # struct socket_row

MAPS = {
    spec.name: spec
    for spec in (
        MapSpec(7001, "SLOTS", MapType.RINGBUF, 0, 0, SLOTS_BYTES),
        MapSpec(7002, "RECORDS", MapType.RINGBUF, 0, 0, RECORDS_BYTES),
        MapSpec(7003, "COUNTS", MapType.PERCPU_ARRAY, 4, _TYPES * _COUNT.size, MAX_AGENTS),
        MapSpec(7004, "TAGS", MapType.TASK_STORAGE, 4, 8, 0, _NO_PREALLOC),
        MapSpec(7005, "AGENTS", MapType.CGROUP_STORAGE, 8, 8),
        MapSpec(7006, "FLOWS", MapType.SK_STORAGE, 4, _FLOW.size, 0, _NO_PREALLOC | _CLONE),
        MapSpec(7007, "MONITOR", MapType.ARRAY, 4, 4, 1),
        MapSpec(7008, "SEED", MapType.ARRAY, 4, 16, 1),
        MapSpec(7009, "FOLLOWED", MapType.LRU_HASH, 8, 4, 4096),
        MapSpec(7010, "WATCHED", MapType.HASH, WATCHED_NAME, 4, 1024),
        MapSpec(7011, "WRITTEN", MapType.LRU_HASH, _FILE_ID.size, 4, 32768),
        MapSpec(7012, "LOOKED_AT", MapType.LRU_HASH, _LOOK.size, 8, 4096),
        MapSpec(7013, "SCRATCH", MapType.PERCPU_ARRAY, 4, _SCRATCH_BYTES, 1),
        MapSpec(7014, "INITIAL", MapType.ARRAY, 4, 4 * len(Namespace), 1),
        MapSpec(7015, "DENIED", MapType.ARRAY, 4, 4, MAX_AGENTS),
    )
}

KFUNCS = {
    900_001: "bpf_cast_to_kern_ctx",
    900_002: "bpf_iter_num_new",
    900_003: "bpf_iter_num_next",
    900_004: "bpf_iter_num_destroy",
}

FILES = (
    *("process.c", "file.c", "privileged.c", "socket.c", "payload.c", "unix.c", "control.c", "deny.c"),
    "inventory.c",
)


class Probe(NamedTuple):
    """A program, what is not seen without it, and where it attaches: to every agent's cgroup or once.

    `calls` are the system calls at whose end a program of type TRACEPOINT runs.
    """

    spec: ProgramSpec
    cost: str
    calls: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its function's, and where one function is many programs also what it hangs on."""
        if self.spec.attach_type is AttachType.TRACE_FEXIT:
            return f"{self.spec.name} {self.spec.target.removeprefix('func ')}"
        return self.spec.name

    @property
    def of_cgroup(self) -> bool:
        return self.spec.type not in (ProgramType.TRACING, ProgramType.TRACEPOINT)

    @property
    def is_iterator(self) -> bool:
        return self.spec.attach_type is AttachType.TRACE_ITER


def _tracepoint(name: str, tracepoint: str, cost: str) -> Probe:
    target = f"typedef btf_trace_{tracepoint}"
    return Probe(ProgramSpec(name, ProgramType.TRACING, AttachType.TRACE_RAW_TP, target), cost)


def _function(name: str, function: str, cost: str) -> Probe:
    return Probe(ProgramSpec(name, ProgramType.TRACING, AttachType.TRACE_FENTRY, f"func {function}"), cost)


def _ends(name: str, calls: str, cost: str) -> Probe:
    return Probe(ProgramSpec(name, ProgramType.TRACEPOINT), cost, tuple(calls.split()))


def _iterator(name: str, kind: str, cost: str) -> Probe:
    return Probe(ProgramSpec(name, ProgramType.TRACING, AttachType.TRACE_ITER, f"func bpf_iter_{kind}"), cost)


def _cgroup(name: str, type: ProgramType, attach_type: str, cost: str) -> Probe:
    return Probe(ProgramSpec(name, type, AttachType[f"CGROUP_{attach_type}"]), cost)


_SOCK, _ADDR = ProgramType.CGROUP_SOCK, ProgramType.CGROUP_SOCK_ADDR
_OPS, _SKB = ProgramType.SOCK_OPS, ProgramType.CGROUP_SKB

PROBES_TABLE = (
    _tracepoint("on_newtask", "task_newtask", "children of agents are not followed"),
    _tracepoint("on_exec", "sched_process_exec", "programs that agents run are not seen"),
    _tracepoint("on_exit", "sched_process_exit", "ends of processes are not seen"),
    _tracepoint("on_cgroup_attach", "cgroup_attach_task", "leaving the agent's cgroup is not seen"),
    _tracepoint("on_signal", "signal_generate", "signals at the monitor are not seen"),
    _cgroup("on_sock_create", _SOCK, "INET_SOCK_CREATE", "raw sockets are not seen"),
    _cgroup("on_sock_release", _SOCK, "INET_SOCK_RELEASE", "ends of UDP flows are not seen"),
    _cgroup("on_post_bind4", _SOCK, "INET4_POST_BIND", "IPv4 binds are not seen"),
    _cgroup("on_post_bind6", _SOCK, "INET6_POST_BIND", "IPv6 binds are not seen"),
    _cgroup("on_connect4", _ADDR, "INET4_CONNECT", "IPv4 connects are not seen"),
    _cgroup("on_connect6", _ADDR, "INET6_CONNECT", "IPv6 connects are not seen"),
    _cgroup("on_sendmsg4", _ADDR, "UDP4_SENDMSG", "receivers of IPv4 datagrams are not seen"),
    _cgroup("on_sendmsg6", _ADDR, "UDP6_SENDMSG", "receivers of IPv6 datagrams are not seen"),
    _cgroup("on_sock_ops", _OPS, "SOCK_OPS", "accepts, listens and results of connects are not seen"),
    _cgroup("on_egress", _SKB, "INET_EGRESS", "what agents send is not seen"),
    _cgroup("on_ingress", _SKB, "INET_INGRESS", "what agents receive is not seen"),
    _cgroup("on_unix_connect", _ADDR, "UNIX_CONNECT", "connects of Unix sockets are not seen"),
    _iterator("on_each_task", "task", "agents that run already cannot be watched"),
    _iterator("on_each_file", "task_file", "packet, vsock and AF_ALG sockets are not seen"),
)


class Way(NamedTuple):
    """Programs that together see something. `lacks` is what a better way would see besides, or empty."""

    name: str
    probes: tuple[Probe, ...]
    lacks: str = ""


class Choice(NamedTuple):
    """Something that can be seen in several ways: the first one all of whose programs attach is used."""

    name: str
    cost: str
    ways: tuple[Way, ...]


_CALLS = (
    "socket unshare setns mount move_mount pivot_root chroot ptrace process_vm_readv process_vm_writev bpf "
    "init_module finit_module"
)


def _return(call: str) -> Probe:
    spec = ProgramSpec(
        "on_call_return", ProgramType.TRACING, AttachType.TRACE_FEXIT, f"func __x64_sys_{call}"
    )
    return Probe(spec, f"{call} is not seen")


FUNCTIONS, ENDS = "kernel functions (fentry)", "ends of system calls"

CHOICES = (
    Choice(
        "files",
        "use of credentials, persistence and files that agents wrote before they ran them are not seen",
        (
            Way(
                FUNCTIONS,
                (
                    _function("on_file_open", "security_file_open", "opened files are not seen"),
                    _function("on_path_rename", "security_path_rename", "renamed files are not seen"),
                    _function("on_path_unlink", "security_path_unlink", "removed files are not seen"),
                    _function("on_path_link", "security_path_link", "linked files are not seen"),
                ),
            ),
            Way(
                ENDS,
                (
                    _ends("on_open_end", "open openat openat2 creat", "opened files are not seen"),
                    _ends(
                        "on_name_end",
                        "truncate rename renameat renameat2 link linkat unlink unlinkat",
                        "renamed and removed files are not seen",
                    ),
                    _tracepoint("on_uring_end", "io_uring_complete", "opens through io_uring are not seen"),
                    _tracepoint(
                        "on_uring_begin", "io_uring_submit_req", "renames through io_uring are not seen"
                    ),
                ),
                "32-bit system calls are not seen; renames and removals are known by the path that was asked "
                "for, not by the file; every system call of the host takes a little longer",
            ),
        ),
    ),
    Choice(
        "privileged operations",
        "namespaces, mounts, modules, eBPF programs and tracing of other processes are not seen",
        (
            Way(FUNCTIONS, tuple(_return(call) for call in _CALLS.split())),
            Way(
                ENDS,
                (_ends("on_call_end", _CALLS, "namespaces, mounts, eBPF programs and tracing are not seen"),),
                "32-bit system calls are not seen; every system call of the host takes a little longer",
            ),
        ),
    ),
)

_LONG = frozenset(("on_exec", "on_egress", "on_ingress"))
"""What the kernel takes long to verify: it does so beside all the rest."""

REQUIRED = frozenset({"on_newtask", "on_exec", "on_exit", "on_connect4", "on_egress"})
"""Without these a process tree cannot be watched at all."""

_TYPES_NEEDED: dict[str, tuple[str, ...]] = {
    "ns_common": ("inum",),
    "kernfs_node": ("id",),
    "cgroup_subsys_state": ("cgroup", "parent"),
    "cgroup_root": ("hierarchy_id",),
    "cgroup": ("self", "kn", "root"),
    "css_set": ("dfl_cgrp",),
    "qstr": ("name",),
    "dentry": ("d_name", "d_parent", "d_inode"),
    "vfsmount": ("mnt_root", "mnt_sb"),
    "mount": ("mnt", "mnt_parent", "mnt_mountpoint", "mnt_devname"),
    "path": ("mnt", "dentry"),
    "file_system_type": ("name",),
    "super_block": ("s_dev", "s_magic", "s_type"),
    "inode": ("i_ino", "i_mode", "i_sb", "i_nlink", "i_generation", "i_rdev"),
    "file": ("f_path", "f_inode", "f_mode", "private_data"),
    "files_struct": ("fdt",),
    "fdtable": ("max_fds", "fd"),
    "list_head": ("next",),
    "upid": ("nr",),
    "pid": ("level", "numbers"),
    "mm_struct": ("arg_start", "arg_end", "env_start", "env_end", "exe_file"),
    "fs_struct": ("pwd",),
    "user_namespace": ("ns",),
    "pid_namespace": ("ns",),
    "mnt_namespace": ("ns",),
    "net": ("ns",),
    "nsproxy": ("pid_ns_for_children", "mnt_ns", "net_ns"),
    "cred": ("uid", "euid", "gid", "user_ns"),
    "signal_struct": ("live", "group_exit_code"),
    "task_struct": (
        "real_parent",
        "tgid",
        "pid",
        "mm",
        "fs",
        "files",
        "thread_pid",
        "ptraced",
        "ptrace_entry",
        "start_boottime",
        "cgroups",
        "group_leader",
        "signal",
        "exit_code",
        "cred",
        "nsproxy",
        "bpf_storage",
    ),
    "sock_common": ("skc_family", "skc_cookie"),
    "sock": ("__sk_common", "sk_protocol", "sk_type", "sk_err", "sk_socket"),
    "socket": ("sk", "file"),
    "unix_sock": ("peer",),
    "bpf_iter_meta": ("seq",),
}
_TYPES_OPTIONAL: dict[str, tuple[str, ...]] = {
    "bpf_sock_addr_kern": ("uaddr", "uaddrlen"),
    "pt_regs": ("di", "si", "dx", "r10", "orig_ax"),
    "io_cqe": ("res",),
    "io_kiocb": ("opcode", "cqe", "ctx", "flags"),
    "open_how": ("flags",),
    "io_open": ("file_slot", "dfd", "filename", "how"),
    "io_rename": ("old_dfd", "new_dfd", "oldpath", "newpath"),
    "io_unlink": ("dfd", "filename"),
    "filename": ("name",),
    "io_rsrc_node": ("file_ptr",),
    "io_rsrc_data": ("nr", "nodes"),
    "io_file_table": ("data",),
    "io_ring_ctx": ("file_table",),
}


def _maps_header() -> str:
    numbers = [f"#define {spec.name} {spec.id}" for spec in MAPS.values()]
    kfuncs = [f"#define KFUNC_{name} {number}" for number, name in KFUNCS.items()]
    limits = [
        f"#define AW_SLOT_BYTES {SLOT_SIZE - RING_HEADER_SIZE}",
        f"#define AW_SLOTS_ROUTINE {SLOTS_ROUTINE}",
        f"#define AW_RECORDS_ROUTINE {RECORDS_ROUTINE}",
        f"#define AW_FLOW_BYTES {_FLOW.size}",
        f"#define AW_SCRATCH_BYTES {_SCRATCH_BYTES}",
        "#define AW_WATCHED_READ 1",
        f"#define AW_WATCHED_WRITE {1 << WATCHED_LEVELS}",
        f"#define AW_GUARDED {GUARDED}",
        f"#define AW_BLOCKED {BLOCKED}",
    ]
    return "\n".join(numbers + kfuncs + limits) + "\n"


def recipe() -> Recipe:
    """How the probes are compiled for the running kernel."""
    # One translation unit, one compiler run; #line keeps the diagnostics true.
    text = "".join(f'#line 1 "{name}"\n{(PROBES / name).read_text()}\n' for name in FILES)
    chosen = [probe for choice in CHOICES for way in choice.ways for probe in way.probes]
    specs = [*(probe.spec for probe in (*PROBES_TABLE, *chosen)), *DENIALS]
    targets = {spec.target for spec in specs if spec.target}
    kfuncs = {f"func {name}" for name in KFUNCS.values()} if bpf.calls_kernel_functions() else set()
    return Recipe(
        text=text,
        stub=PROBES / "include" / "stub",
        include_dirs=(PROBES / "include",),
        headers={"aw_events.h": c_header.emit(), "aw_maps.h": _maps_header()},
        required=_TYPES_NEEDED,
        optional=_TYPES_OPTIONAL,
        btf_ids=tuple(sorted(targets | kfuncs)),
    )


class Missing(NamedTuple):
    """A probe that could not be loaded or attached."""

    probe: str
    error: str
    cost: str


class Probes:
    """The probes in the kernel. Closing detaches every program and frees every map."""

    def __init__(self) -> None:
        self.missing: list[Missing] = []
        self.ways: dict[str, str] = {}  # of what can be seen in several ways: the one in use
        self._stack = ExitStack()
        self._loaded: dict[str, Handle] = {}
        self._iterators: dict[str, Handle] = {}
        self._ends: list[tuple[Probe, Handle, Mapping[str, int]]] = []
        self._events: list[Handle] = []  # that are attached to ends of system calls
        self._detaching: Background[None] | None = None
        with self._stack:
            making = Background(lambda: create_maps(MAPS.values()))
            try:
                compiled = cached_object(recipe())
            finally:
                self._by_id = making.result()
                for handle in self._by_id.values():
                    self._stack.enter_context(handle)
            loading = {
                probe.spec.name: self._loading(compiled, probe)
                for probe in PROBES_TABLE
                if probe.spec.name in _LONG
            }
            try:
                for choice in CHOICES:
                    self._choose(compiled, choice)
            finally:
                for probe in PROBES_TABLE:
                    begun = loading.get(probe.spec.name)
                    self._take(probe, begun.result if begun else partial(self._load, compiled, probe))
            self.denials = self._stack.enter_context(
                Denials(lambda spec: load_program(compiled, spec, self._by_id, KFUNCS), self.map("DENIED"))
            )
            self._stack = self._stack.pop_all()

    def _loading(self, compiled: Object, probe: Probe) -> Background[Handle]:
        return Background(lambda: self._load(compiled, probe))

    def _load(self, compiled: Object, probe: Probe) -> Handle:
        return load_program(compiled, probe.spec, self._by_id, KFUNCS)

    def _take(self, probe: Probe, load: Callable[[], Handle]) -> None:
        """Load a program and attach it where it attaches once; one that is refused is missing."""
        try:
            program = load()
        except (BpfError, UnknownTarget, KeyError) as error:
            self._miss(probe, error)
            return
        self._loaded[probe.spec.name] = self._stack.enter_context(program)
        if not probe.of_cgroup:
            self._attach_once(probe, program)

    def _choose(self, compiled: Object, choice: Choice) -> None:
        """Attach the programs of the first way that works; why a better one does not is told."""
        errors = []
        for way in choice.ways:
            try:
                self._stack.enter_context(self._go(compiled, way))
            except (BpfError, UnknownTarget, KeyError) as error:
                errors.append(f"{way.name}: {str(error).splitlines()[0]}")
                continue
            self.ways[choice.name] = way.name
            if way.lacks:
                self.missing.append(Missing(choice.name, "; ".join(errors), f"by {way.name}: {way.lacks}"))
            return
        self.missing.append(Missing(choice.name, "; ".join(errors), choice.cost))

    def _go(self, compiled: Object, way: Way) -> ExitStack:
        with ExitStack() as stack:
            begun = [self._loading(compiled, probe) for probe in way.probes]
            programs = [stack.enter_context(program) for program in results(begun)]
            for probe, program in zip(way.probes, programs, strict=True):
                if not probe.calls:
                    stack.enter_context(bpf.attach_tracing(program))
            ends = [
                (probe, program, tracefs.find_ends(probe.calls))
                for probe, program in zip(way.probes, programs, strict=True)
                if probe.calls
            ]
            self._ends += ends
            self._loaded |= {probe.name: program for probe, program in zip(way.probes, programs, strict=True)}
            return stack.pop_all()

    def _miss(self, probe: Probe, error: Exception) -> None:
        name = probe.spec.name
        if name in REQUIRED:
            raise ProbeError(f"{name}: {error}. Without it {probe.cost}.") from error
        self.missing.append(Missing(name, str(error).splitlines()[0], probe.cost))

    def _attach_once(self, probe: Probe, program: Handle) -> None:
        try:
            link = bpf.attach_iterator(program) if probe.is_iterator else bpf.attach_tracing(program)
        except BpfError as error:
            self._miss(probe, error)
            return
        self._stack.enter_context(link)
        if probe.is_iterator:
            self._iterators[probe.spec.name] = link

    def watch_calls(self) -> None:
        """Attach to the ends of system calls, where that is the way to see something. Meanwhile every
        system call of the host takes a little longer, so it is done while there is an agent."""
        if self._events:
            return
        for end in list(self._ends):
            probe, program, tracepoints = end
            try:
                self._events += tracefs.attach_ends(program, tracepoints)
            except BpfError as error:
                self._ends.remove(end)
                self._miss(probe, error)

    def unwatch_calls(self) -> None:
        """Detach from them, beside all else: it takes the kernel tens of ms."""
        events, self._events = self._events, []
        if events:
            self._detaching = Background(partial(tracefs.detach_ends, events))

    def map(self, name: str) -> Handle:
        """A map by its name in `MAPS`."""
        return self._by_id[MAPS[name].id]

    def watch_cgroup(self, agent: int, cgroup_fd: int, cgroup_id: int) -> ExitStack:
        """Attach the cgroup programs for agent number `agent`; closing the result detaches them."""
        with ExitStack() as links:
            for probe in PROBES_TABLE:
                program = self._loaded.get(probe.spec.name)
                if not probe.of_cgroup or program is None:
                    continue
                try:
                    links.enter_context(bpf.attach_cgroup(program, cgroup_fd, probe.spec.attach_type))
                except BpfError as error:
                    self._miss(probe, error)
            # The storage exists once a program that uses it is attached; until now the agent's
            # number is 0, for which every program does nothing.
            self._own(agent, cgroup_id)
            return links.pop_all()

    def block(self, agent: int, cgroup_id: int) -> None:
        """Deny an agent what `Denials.block` does, and drop what it sends over IP. Raises `KernelError`."""
        self.denials.block(agent)
        self._own(agent, cgroup_id, blocked=True)

    def unblock(self, agent: int, cgroup_id: int) -> None:
        """Let it do all that again. Raises `KernelError`."""
        self.denials.unblock(agent)
        self._own(agent, cgroup_id)

    def _own(self, agent: int, cgroup_id: int, *, blocked: bool = False) -> None:
        """Tell the programs of a cgroup whose it is."""
        value = struct.pack("<II", agent, blocked)
        bpf.map_update(self.map("AGENTS"), struct.pack("<Q", cgroup_id), value)

    def tag(self, pid: int, agent: int) -> None:
        """Make a process and all it will create part of an agent. Its other threads stay untagged."""
        pidfd = os.pidfd_open(pid)
        try:
            bpf.map_update(self.map("TAGS"), struct.pack("<i", pidfd), struct.pack("<II", agent, 0))
        finally:
            os.close(pidfd)

    def tag_cgroup(self, agent: int, cgroup_id: int) -> list[tuple[int, int, int, int]]:
        """Tag every task below a cgroup. Returns (pid, parent, start, parent's start) of its processes
        that had another tag or none. Raises `ProbeError` where this kernel has no task iterator.
        """
        return self._seed(agent, cgroup_id)

    def untag(self, agent: int) -> None:
        """Take its tag from every task of an agent, wherever it is. Nothing where there is no iterator."""
        if "on_each_task" in self._iterators:
            self._seed(agent, 0)

    def _seed(self, agent: int, cgroup_id: int) -> list[tuple[int, int, int, int]]:
        """Children inherit at birth, but a task may have a child where the pass has been already:
        passes are made until one finds nothing new."""
        link = self._iterators.get("on_each_task")
        if link is None:
            raise ProbeError("this kernel cannot list tasks to eBPF: what runs already cannot be watched")
        bpf.map_update(self.map("SEED"), struct.pack("<I", 0), struct.pack("<QII", cgroup_id, agent, 0))
        found: list[tuple[int, int, int, int]] = []
        while fresh := [row for row in _TASK_ROW.iter_unpack(bpf.iterate(link)) if row[5]]:
            found += [row[:4] for row in fresh if row[0] == row[4]]
        return found

    def own_socket(self, fd: int, block: tuple[int, bytes, bytes, int, int, int, int, int, int],
                   owner: tuple[int, int]) -> None:  # fmt: skip
        """Tell the probes whose an open IPv4 or IPv6 socket is, before its cgroup is watched.

        `block` is the schema's socket block, `owner` the process's id and start. What a listener
        accepts is its owner's, too. A socket that the probes know already stays as it is.
        """
        opened = now()
        flags = _FLOW_ANNOUNCED | _FLOW_FOUND
        begun = (*block, owner[1], opened, *[0] * 12, owner[0], owner[0])
        value = _FLOW.pack(*begun, 0, 0, 0, 0, flags, *[0] * 4)
        bpf.map_add(self.map("FLOWS"), struct.pack("<i", fd), value)

    def other_sockets(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """Open sockets of agents in families that no hook reports (packet, vsock, AF_ALG, ...).

        Rows: agent, pid, start, inode, protocol, family, type. Empty where the iterator is missing.
        """
        link = self._iterators.get("on_each_file")
        return [] if link is None else list(_SOCKET_ROW.iter_unpack(bpf.iterate(link)))

    def guard_monitor(self, pid: int) -> None:
        """Report what agents aim at this process: signals and tracing."""
        bpf.map_update(self.map("MONITOR"), struct.pack("<I", 0), struct.pack("<I", pid))

    def know_initial(self) -> None:
        """Tell the probes which namespaces are the host's: the monitor's own."""
        numbers = []
        for kind in Namespace:
            link = Path(f"/proc/self/ns/{kind.name.lower()}")  # leads to mnt:[4026531841]
            numbers.append(
                int(link.readlink().name.partition("[")[2].rstrip("]")) if link.is_symlink() else 0
            )
        value = struct.pack(f"<{len(numbers)}I", *numbers)
        bpf.map_update(self.map("INITIAL"), struct.pack("<I", 0), value)

    def watch_names(self, masks: Mapping[str, int]) -> None:
        """Report files that have such a name, or one above them: see probes/file.c."""
        for name, mask in masks.items():
            key = name.encode().ljust(WATCHED_NAME, b"\0")
            bpf.map_update(self.map("WATCHED"), key, struct.pack("<I", mask))

    def follow(self, cookie: int) -> None:
        """Report traffic of this flow beyond its first messages (see probes/payload.c)."""
        bpf.map_update(self.map("FOLLOWED"), struct.pack("<Q", cookie), struct.pack("<I", 1))

    def unfollow(self, cookie: int) -> None:
        """Report no more of it than of any other flow."""
        bpf.map_delete(self.map("FOLLOWED"), struct.pack("<Q", cookie))

    def counts(self, agent: int) -> Iterator[tuple[int, int, int]]:
        """(event type, events sent, events lost) of an agent since loading, over all CPUs.

        Of number 0 what was lost of all agents: sent is not counted.
        """
        size = _TYPES * _COUNT.size * bpf.possible_cpus()
        value = bpf.map_lookup(self.map("COUNTS"), struct.pack("<I", agent), size)
        assert value is not None  # an array has all its elements
        pairs = list(_COUNT.iter_unpack(value))
        for number in BY_NUMBER:
            of_cpus = pairs[number::_TYPES]
            yield number, sum(sent for sent, _ in of_cpus), sum(lost for _, lost in of_cpus)

    @property
    def loaded(self) -> list[str]:
        """Names of the loaded programs."""
        return sorted(self._loaded)

    def programs(self) -> Iterator[tuple[str, ProgramInfo]]:
        """What the kernel says of each loaded program."""
        for name, program in self._loaded.items():
            yield name, bpf.program_info(program)

    def close(self) -> None:
        """Detach and free everything."""
        self.unwatch_calls()
        if self._detaching is not None:
            self._detaching.result()
        self._stack.close()

    def __enter__(self) -> Probes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
