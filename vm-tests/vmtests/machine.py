"""One boot: the host's root file system shared read-only over virtiofs, a kernel in QEMU, a job.

The machine speaks through two serial ports: the console, kept in a file, and the report, JSON lines
that `vmtests.inside` writes (see there). It ends by itself; one that does not is ended at its limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from vmtests import initramfs
from vmtests.kernels import HERE, Mode, Unavailable, Unpacked, VmError

ROOT = HERE.parent
QEMU = "qemu-system-x86_64"
_DAEMONS = (Path("/usr/lib/qemu/virtiofsd"), Path("/usr/libexec/virtiofsd"))
_MEMORY = "3G"
_BOOTS = 3  # emulated, a kernel that patches itself while it boots falls over now and then
_KVM_LIMIT = 15  # seconds in which a kernel starts its first process, where KVM works

Message = dict[str, Any]


def boot(kernel: Unpacked, mode: Mode, job: str, *, folder: Path, probes: Path, headers: Path | None,
         limit: float, hear: Callable[[Message], None]) -> None:  # fmt: skip
    """Run `python -m vmtests.inside JOB` in a machine and pass on each of its messages.

    `probes` is a cache of compiled ones; `headers` is where the kernel's lie unpacked, if the machine is to
    have them. `folder` gets console.log and noise.log (what came besides messages). Raises `VmError` when
    the machine ended without the message "end", `Unavailable` when it did not boot or not end within
    `limit` seconds.
    """
    deadline = time.monotonic() + limit
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        "ROOT": str(ROOT),
        "HERE": str(HERE),
        "MODULES": str(kernel.modules),
        "CGROUP": mode.cgroup,
        "PROBES": str(probes),
        "HEADERS": str(headers or ""),
        "JOB": job,
    }
    (folder / "initramfs").write_bytes(initramfs.build(kernel, given))
    for _ in range(_BOOTS):
        heard = _run(kernel, mode, folder, deadline - time.monotonic(), hear)
        if heard is not Heard.NOTHING or time.monotonic() > deadline:
            break
    if heard is Heard.END:
        return
    if time.monotonic() > deadline:
        raise Unavailable(f"the machine had not ended after {limit:.0f} s")
    if heard is Heard.NOTHING:
        raise Unavailable("the kernel did not boot")
    raise VmError("the machine ended before its job did")


class Heard(Enum):
    """How far a machine came."""

    NOTHING = 0
    SOMETHING = 1
    END = 2


def _run(kernel: Unpacked, mode: Mode, folder: Path, limit: float, hear: Callable[[Message], None]) -> Heard:
    with _shared_root(folder) as socket, _machine(kernel, mode, folder, socket) as machine:
        watch = threading.Timer(limit, machine.kill)
        watch.start()
        try:
            return _listen(machine, folder / "noise.log", hear)
        finally:
            watch.cancel()


def _listen(machine: subprocess.Popen[bytes], noise: Path, hear: Callable[[Message], None]) -> Heard:
    heard = Heard.NOTHING
    assert machine.stdout is not None
    with noise.open("wb") as rest:
        for line in machine.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                rest.write(line)
                continue
            hear(message)
            heard = Heard.END if "end" in message else Heard.SOMETHING
    return heard


@contextmanager
def _shared_root(folder: Path) -> Iterator[Path]:
    """Socket of a daemon that shares the host's root; it sees it through a read-only mount of its own."""
    daemon = next((path for path in _DAEMONS if path.exists()), None)
    if daemon is None:
        raise Unavailable("no virtiofsd here; ./dev vm installs it")
    shared, socket = folder / "root", folder / "virtiofs"
    shared.mkdir(exist_ok=True)
    socket.unlink(missing_ok=True)
    script = (
        'mount --bind / "$1" && mount -o remount,ro,bind "$1" && '
        'exec "$2" --socket-path="$3" -o source="$1" -o sandbox=chroot -o cache=always'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(shared), str(daemon), str(socket)]
    with (folder / "virtiofsd.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"virtiofsd did not start: see {folder}/virtiofsd.log")
            time.sleep(0.05)
        yield socket
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _machine(kernel: Unpacked, mode: Mode, folder: Path, socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        *_qemu(kernel),
        *("-machine", "q35,memory-backend=memory", "-m", _MEMORY, "-smp", "2"),
        *("-object", f"memory-backend-memfd,id=memory,size={_MEMORY},share=on"),
        *("-initrd", str(folder / "initramfs"), "-append", f"console=ttyS0 panic=-1 quiet {mode.append}"),
        *("-chardev", f"socket,id=root,path={socket}", "-device", "vhost-user-fs-pci,chardev=root,tag=host"),
        *("-serial", f"file:{folder}/console.log", "-serial", "stdio"),
    ]
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _qemu(kernel: Unpacked) -> list[str]:
    accelerator = "kvm" if kvm_works(kernel.image) else "tcg,thread=multi"
    return [QEMU, *_plain(accelerator), "-kernel", str(kernel.image)]


def _plain(accelerator: str) -> list[str]:
    return ["-accel", accelerator, "-cpu", "max", "-display", "none", "-nodefaults", "-no-reboot"]


@cache
def kvm_works(image: Path) -> bool:
    """Whether a kernel gets to its first process under KVM: /dev/kvm may be there and not work."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.NamedTemporaryFile(prefix="agentwatch-vm-") as file:
        file.write(initramfs.greeting())
        file.flush()
        command = [
            *(QEMU, *_plain("kvm"), "-m", "512", "-serial", "stdio", "-kernel", str(image)),
            *("-initrd", file.name, "-append", "console=ttyS0 panic=-1 quiet"),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_KVM_LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            return False
    return initramfs.GREETING in done.stdout
