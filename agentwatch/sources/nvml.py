"""GPUs as a source: keeps the sampler (`nvml_child`) going and turns what it says into records.

On a host without NVIDIA's library nothing is started. A sampler that fails is started again,
later each time: the driver may be loaded, replaced or unloaded at any moment. One that is silent
hangs in the driver; it is given up, and no other is started before it has ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgpack  # type: ignore[import-untyped]

from agentwatch.schema.events import BY_NAME, HOST, Type
from agentwatch.sources.kernel import KernelSource

LIBRARY = "libnvidia-ml.so.1"
COST = "who uses the GPUs is not seen"  # what it costs not to have NVML
_NODES = (Path("/dev/nvidiactl"), Path("/dev/nvidia0"))
LOOK_SECONDS = 5.0  # between looks for a library that is not there
SILENT_SECONDS = 10.0  # without a word, the sampler hangs
RETRY_SECONDS = (1.0, 60.0)  # until a sampler that failed is started again: doubles, up to the second
_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64", "/usr/local/lib", "/run/opengl-driver/lib",
)  # fmt: skip
_CHILD = Path(__file__).with_name("nvml_child.py")
_PACKET = 256 << 10
_PROBE = "nvml"
_DRIVER_NOT_LOADED, _GPU_NOT_FOUND = 9, 28  # of nvml.h


def library() -> Path | None:
    """NVIDIA's library, where the sampler's loader will look for it."""
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *_FOLDERS]
    paths = (Path(folder, LIBRARY) for folder in folders if folder)
    return next((path for path in paths if path.exists()), None)


def device_nodes() -> bool:
    """Whether the driver has made device nodes: there are GPUs that can be used."""
    return any(node.exists() for node in _NODES)


def installed() -> bool:
    """Whether there is anything to ask about, or to miss: the library or a device node."""
    return library() is not None or device_nodes()


class Nvml:
    """Samples of the GPUs as records, one round a second. `sweep` never waits."""

    def __init__(self, source: KernelSource) -> None:
        self._source = source
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._next = 0.0  # when to look or to start again
        self._heard = 0.0
        self._retry = RETRY_SECONDS[0]
        self._failure = ""  # what was said last: the same is not said again
        self._gap = False
        self._any_seen = False
        self._unexplained = False  # the sampler has gone without a word

    def sweep(self) -> None:
        """Take what the sampler sent; start it, or give it up, where it is time."""
        if self._channel is not None:
            self._receive(self._channel)
        elif self._unexplained:
            self._explain()
        elif monotonic() >= self._next and self._ended():
            self._start()

    def close(self) -> None:
        """End the sampler."""
        self._hang_up()
        if self._child is not None:
            self._child.kill()
            with suppress(subprocess.TimeoutExpired):  # it hangs in the driver: nobody can wait for it
                self._child.wait(timeout=0.2)

    def _ended(self) -> bool:
        return self._child is None or self._child.poll() is not None

    def _start(self) -> None:
        if not installed():
            self._next = monotonic() + LOOK_SECONDS
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._channel, self._heard = ours, monotonic()
        try:
            with theirs:
                self._child = subprocess.Popen(
                    [sys.executable, "-I", str(_CHILD), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for us: the sampler ends when we do
                )
        except OSError as error:  # no memory, too many processes
            self._fail(f"the sampler cannot be started: {error.strerror}", 0)

    def _receive(self, channel: socket.socket) -> None:
        for data in _packets(channel):
            if not data:
                self._hang_up()
                self._unexplained = True
                return
            self._heard = monotonic()
            time, rows, failure, code = msgpack.unpackb(data, use_list=False)
            if failure:
                self._fail(failure, code)
                return
            self._answered()
            for name, tgid, start, *fields in rows:
                self._any_seen |= name == "gpu_device"
                number = Type(BY_NAME[name].number)
                self._source.note(number, HOST, *fields, tgid=tgid, start=start, time=time)
        if monotonic() - self._heard > SILENT_SECONDS:
            self._fail("the driver does not answer", 0)

    def _explain(self) -> None:
        """How a sampler ended that said nothing, as soon as it has ended."""
        code = self._child.poll() if self._child is not None else None
        if code is None:
            return
        self._unexplained = False
        if code < 0:
            self._fail(f"the sampler was ended by signal {-code}", 0)
        else:
            self._fail("the sampler ended: is nvidia-ml-py installed?", 0)

    def _answered(self) -> None:
        self._retry, self._failure = RETRY_SECONDS[0], ""
        if self._gap:
            self._gap = False
            self._source.note(Type.COVERAGE, HOST, _PROBE, "", "")

    def _fail(self, reason: str, code: int) -> None:
        """Say it, once, and start again later."""
        self._hang_up()
        if self._child is not None:
            self._child.kill()
        self._next = monotonic() + self._retry
        self._retry = min(2 * self._retry, RETRY_SECONDS[1])
        if reason == self._failure:
            return
        self._failure = reason
        self._source.note(Type.GPU_GONE, HOST, "", reason)
        # A host whose driver was never there has a library and no GPU: nothing is missed.
        idle = code in (_DRIVER_NOT_LOADED, _GPU_NOT_FOUND) and not device_nodes()
        if not self._gap and (self._any_seen or not idle):
            self._gap = True
            self._source.note(Type.COVERAGE, HOST, _PROBE, reason, COST)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _packets(channel: socket.socket) -> Iterator[bytes]:
    """What has come; an empty packet when the sampler is gone."""
    while True:
        try:
            data = channel.recv(_PACKET)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        yield data
        if not data:
            return
