"""The inside of a scenario's sandbox: files, processes and devices that end with it.

Run as `python -I sandbox.py PLAN CHANNEL` in the network that the command shall see. PLAN is a
file with a `Plan` as JSON, CHANNEL the number of an inherited Unix socket (SOCK_SEQPACKET). The root is an
overlay of the host's over a tmpfs, so whatever is written is thrown away; /dev holds harmless
devices only; /proc shows the sandbox's own processes, among them one named `agentwatch` that
stands in for the monitor; what else would reach the host is covered. What is left of the root
user's power is for the scenario's own namespaces.

The command's process and the monitor's stand-in each say one word on the channel, so that the
other side learns their pids from the message's credentials; the command waits for an answer, so
that it is under watch before its first instruction. Imports nothing of agentwatch: what is
measured shall not depend on what measures.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

# <sched.h>, <sys/mount.h>, <sys/prctl.h>
NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_PIDS = 0x00020000, 0x04000000, 0x08000000, 0x20000000
READ_ONLY, NO_SUID_REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
DETACH = 2
DEATH_SIGNAL, DROP_BOUNDING = 1, 24

# <linux/capability.h>: modules, raw I/O, reboot, the clock, MAC, device nodes, the kernel log
DROPPED = (16, 17, 22, 25, 27, 32, 33, 34)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "net/tun")
FRESH = ("tmp", "var/tmp", "run", "root", "home", "dev")
# Settings of the whole host: an agent that writes them writes a file of its own.
COVERED = ("proc/sys/kernel/core_pattern", "proc/sys/kernel/modprobe", "proc/sysrq-trigger")
MONITOR = "agentwatch"
AGENT_SCRIPT = "/root/agent.sh"
AGENT = 'bash -c "$COMMAND"\nexit\n'
FILE_BYTES = 256 << 20

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Plan:
    """What the sandbox is made of.

    `base` is an empty folder for mounts, `home` a folder whose files become those of /root,
    `folder` the working directory below /root, `cgroup` the directory of cgroup v2 seen at
    /sys/fs/cgroup, `release_agents` names below it that get files as cgroup v1 has them.
    `files` are further files, path -> content; `programs` further programs, path -> original;
    `sockets` Unix sockets of others, path -> original.
    `output` takes what the command prints, at most FILE_BYTES.
    """

    base: str
    home: str
    folder: str
    command: str
    cgroup: str
    output: str
    environment: dict[str, str]
    monitor: str
    release_agents: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    programs: dict[str, str] = field(default_factory=dict)
    sockets: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    _check(result, f"mount {target}")


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """A file or folder at a second place."""
    mount(str(source), target, flags=BIND)
    if read_only:
        mount("", target, flags=BIND | NO_SUID_REMOUNT | READ_ONLY)


def make_root(base: Path) -> Path:
    """A root below `base`: the host's files under a layer that is thrown away, no devices of the host's."""
    mount("", Path("/"), flags=RECURSIVE | PRIVATE)
    mount("tmpfs", base, "tmpfs", data="size=1g,mode=755")
    upper, work, root = base / "upper", base / "work", base / "root"
    for folder in (upper, work, root):
        folder.mkdir(mode=0o755)
    mount("overlay", root, "overlay", data=f"lowerdir=/,upperdir={upper},workdir={work}")
    for name in FRESH:
        (root / name).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", root / name, "tmpfs", data="size=512m")
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    _make_devices(root / "dev")
    mount("proc", root / "proc", "proc")
    bind(root / "proc/sys", root / "proc/sys", read_only=True)
    _cover(root)
    return root


def enter(root: Path) -> None:
    """Make it the root of this mount namespace, and let go of the old one."""
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"mnt"), "pivot_root")
    os.chdir("/")
    _check(_libc.umount2(b"/mnt", DETACH), "umount")


def keep(root: Path, folder: Path, *, read_only: bool) -> None:
    """Let a folder of the host be seen in a new root, at its own place."""
    place = _inside(root, str(folder))
    place.mkdir(parents=True, exist_ok=True)
    bind(folder, place, read_only=read_only)


def build(plan: Plan) -> None:
    """Make the file system and enter it."""
    root = make_root(Path(plan.base))
    _make_sys(root / "sys", plan)
    _fill(root, plan)
    enter(root)


def _make_devices(devices: Path) -> None:
    for name in ("net", "pts", "shm", "mqueue"):
        (devices / name).mkdir()
    for name in DEVICES:
        with suppress(FileNotFoundError):
            os.mknod(devices / name, 0o666 | stat.S_IFCHR, Path("/dev", name).stat().st_rdev)
            (devices / name).chmod(0o666)
    mount("devpts", devices / "pts", "devpts", data="newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", devices / "shm", "tmpfs", data="size=128m,mode=1777")
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        (devices / name).symlink_to(target)


def _make_sys(sys_root: Path, plan: Plan) -> None:
    bind(Path("/sys"), sys_root, read_only=True)
    bind(Path(plan.cgroup), sys_root / "fs/cgroup")
    for name in plan.release_agents:
        folder = sys_root / "fs/cgroup" / name
        mount("tmpfs", folder, "tmpfs", data="size=1m")
        for file in ("release_agent", "notify_on_release", "cgroup.procs"):
            (folder / file).write_text("")
    with suppress(OSError):  # no bpffs on this kernel, no pins to remove
        mount("bpf", sys_root / "fs/bpf", "bpf")
        (sys_root / "fs/bpf" / MONITOR).mkdir()


def _cover(root: Path) -> None:
    for name in COVERED:
        if (root / name).exists():
            harmless = root / "run" / name.replace("/", "-")
            harmless.write_text((root / name).read_text() if "sys/" in name else "")
            bind(harmless, root / name)
            harmless.unlink()


def _fill(root: Path, plan: Plan) -> None:
    _copy_tree(Path(plan.home), root / "root")
    put(_inside(root, AGENT_SCRIPT), AGENT.encode(), 0o644)
    for path, original in plan.programs.items():
        put(_inside(root, path), Path(original).read_bytes(), 0o755)
    for path, content in plan.files.items():
        put(_inside(root, path), content.encode(), 0o600)
    for path, original in plan.sockets.items():
        put(_inside(root, path), b"", 0o600)
        bind(Path(original), _inside(root, path))
    (root / "root").chmod(0o700)


def _inside(root: Path, path: str) -> Path:
    """A path of the sandbox, seen from outside; nothing leads out of it."""
    return root / os.path.normpath("/" + path).lstrip("/")


def put(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # such as /etc/resolv.conf: its target is the host's
        path.unlink()
    path.write_bytes(content)
    path.chmod(mode)


def _copy_tree(source: Path, target: Path) -> None:
    for entry in sorted(source.rglob("*")):
        copy = target / entry.relative_to(source)
        if entry.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        else:
            put(copy, entry.read_bytes(), stat.S_IMODE(entry.stat().st_mode))


def _become_command(plan: Plan, channel: socket.socket) -> None:
    """Wait to be watched, then run the command as a shell of an agent runs it. Never returns."""
    channel.send(b"command")
    if channel.recv(2) != b"go":
        os._exit(125)
    os.setsid()
    os.chdir(Path("/root", plan.folder))
    for capability in DROPPED:
        _libc.prctl(DROP_BOUNDING, capability, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # As an agent does: a shell runs `bash -c COMMAND`, which is not told how it came about.
    os.execve("/bin/bash", ["bash", AGENT_SCRIPT], plan.environment | {"COMMAND": plan.command})


def _start_monitor(plan: Plan, channel: socket.socket) -> int:
    """A process named as the monitor is, for agents that signal it."""
    pid = os.fork()
    if pid == 0:
        channel.send(b"monitor")
        channel.close()
        os.execv(plan.monitor, [MONITOR, "infinity"])
    return pid


def _others_run(monitor: int) -> bool:
    return any(
        int(entry.name) not in (1, monitor) for entry in Path("/proc").iterdir() if entry.name.isdigit()
    )


def _run_init(plan: Plan, channel: socket.socket) -> None:
    """Be the first process of the sandbox: build it, start the command, collect orphans."""
    _libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    output = os.open(plan.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    build(plan)
    for target in (1, 2):
        os.dup2(output, target)
    os.close(output)
    monitor = _start_monitor(plan, channel)
    if os.fork() == 0:
        _become_command(plan, channel)
    channel.close()
    while _others_run(monitor):
        with suppress(ChildProcessError):
            os.wait()


def main(plan: Plan, channel: socket.socket) -> None:
    """Build the sandbox and stay until it is empty."""
    _check(_libc.unshare(NEW_MOUNTS | NEW_PIDS | NEW_IPC | NEW_UTS), "unshare")
    pid = os.fork()
    if pid == 0:
        _run_init(plan, channel)
        os._exit(0)
    channel.close()
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main(Plan(**json.loads(Path(sys.argv[1]).read_text())), socket.socket(fileno=int(sys.argv[2])))
