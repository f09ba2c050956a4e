"""The sampler of GPUs: asks NVIDIA's library (NVML) once a second and sends what it says.

Run as a process of its own by `agentwatch.sources.nvml`: a call into the driver may block for
seconds, and what the library needs in memory is not the watcher's. It imports nothing of agentwatch,
so that `python -I` can run it by path. Messages are msgpack, one a packet of the socket given:
`[time, rows, failure, code]`, where a row is `[event, process, start, field, ...]` in the schema's
order. After a failure (not empty) it ends: whoever starts it again loads a library of this moment.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import pynvml as nvml  # type: ignore[import-untyped]

INTERVAL = 1.0  # seconds
NO_GPU = nvml.NVML_ERROR_GPU_NOT_FOUND
_UNKNOWN = -1
_ROWS = 500  # in a packet: far below its limit (net.core.wmem_default, 208 KiB)
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_DRIVER_GONE = (
    nvml.NVML_ERROR_UNINITIALIZED,
    nvml.NVML_ERROR_DRIVER_NOT_LOADED,
    nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
_LOST = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED, nvml.NVML_ERROR_GPU_NOT_FOUND)
_NO_SAMPLES = (nvml.NVML_SUCCESS, nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_ERROR_NO_DATA)

Row = tuple[Any, ...]


class Device(NamedTuple):
    """A GPU, or (with a `parent`) a MIG instance of one. `label` is its number, `0`, or `0/1`."""

    handle: Any
    uuid: str
    label: str
    parent: str = ""
    instance: int = _UNKNOWN


class Sampler:
    """One look after the other at all devices; remembers what was told, so that changes are told once."""

    def __init__(self) -> None:
        self._driver = nvml.nvmlSystemGetDriverVersion()
        self._known: dict[str, str] = {}  # label of each device told, by its UUID
        self._gaps: dict[str, str] = {}  # what cannot be asked, and why
        self._since: dict[str, int] = {}  # time of the last sample of processes, by UUID

    def look(self) -> list[Row]:
        """The rows of this moment. Raises `NVMLError` where no device can be asked any more."""
        rows: list[Row] = []
        present: set[str] = set()
        lost: dict[str, str] = {}
        gaps: dict[str, str] = {}
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                for device in self._devices(index):
                    rows += self._sample(device, gaps)
                    present.add(device.uuid)
            except nvml.NVMLError as error:
                if error.value in _DRIVER_GONE:
                    raise
                lost[str(index)] = str(error)
        for uuid in [uuid for uuid in self._known if uuid not in present]:
            label = self._known.pop(uuid)
            reason = lost.get(label.partition("/")[0], "it is not listed any more")
            rows.append(("gpu_gone", 0, 0, uuid, reason))
        rows += self._changed_gaps(gaps)
        return rows

    def _devices(self, index: int) -> Iterator[Device]:
        """A GPU and its MIG instances."""
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        yield Device(handle, uuid, str(index))
        mode = _ask(nvml.nvmlDeviceGetMigMode, handle)
        if mode is None or not mode[0]:
            return
        for place in range(_ask(nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            inside = _ask(nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
            if inside is not None:
                instance = _number(_ask(nvml.nvmlDeviceGetGpuInstanceId, inside))
                yield Device(inside, nvml.nvmlDeviceGetUUID(inside), f"{index}/{place}", uuid, instance)

    def _sample(self, device: Device, gaps: dict[str, str]) -> Iterator[Row]:
        handle = device.handle
        memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        if device.uuid not in self._known:
            name = _ask(nvml.nvmlDeviceGetName, handle) or ""
            total = memory.total if memory else 0
            yield ("gpu_device", 0, 0, device.uuid, device.label, name, device.parent, device.instance, total,
                   self._driver)  # fmt: skip
            self._known[device.uuid] = device.label
        running = self._running(device, gaps)
        rates = _ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        encoder = _ask(nvml.nvmlDeviceGetEncoderUtilization, handle)
        # The driver counts bytes for 20 ms to answer: only where somebody could move any.
        moved = [_ask(nvml.nvmlDeviceGetPcieThroughput, handle, way) if running else None for way in (0, 1)]
        yield (
            "gpu_sample", 0, 0, device.uuid,
            _percent(rates.gpu if rates else None),
            _percent(rates.memory if rates else None),
            _percent(encoder[0] if encoder else None),
            memory.used if memory else 0,
            _number(_ask(nvml.nvmlDeviceGetPowerUsage, handle)),
            _number(_ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)),
            *map(_number, moved),
            len(running),
        )  # fmt: skip
        if running:
            yield from self._uses(device, running, gaps)

    def _running(self, device: Device, gaps: dict[str, str]) -> dict[int, int]:
        """Bytes of memory by process; 0 where they are not told."""
        found: dict[int, int] = {}
        for newest, older in (
            (nvml.nvmlDeviceGetComputeRunningProcesses_v3, nvml.nvmlDeviceGetComputeRunningProcesses_v2),
            (nvml.nvmlDeviceGetGraphicsRunningProcesses_v3, nvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
        ):
            try:
                try:
                    processes = newest(device.handle)
                except nvml.NVMLError_FunctionNotFound:  # a driver before 510
                    processes = older(device.handle)
            except nvml.NVMLError as error:
                _raise_if_lost(error)
                gaps[f"processes of GPU {device.label}"] = str(error)
                continue
            for one in processes:
                found[one.pid] = max(found.get(one.pid, 0), one.usedGpuMemory or 0)
        return found

    def _uses(self, device: Device, running: dict[int, int], gaps: dict[str, str]) -> Iterator[Row]:
        shares = self._shares(device, gaps)
        for pid, used in running.items():
            start = _start(pid)
            if start is not None:
                share = (_UNKNOWN,) * 4 if shares is None else shares.get(pid, (0, 0, 0, 0))
                yield ("gpu_use", pid, start, device.uuid, *share, used)

    def _shares(self, device: Device, gaps: dict[str, str]) -> dict[int, tuple[int, ...]] | None:
        """Percent of SM, memory, encoder and decoder by process since the last look; None: not told."""
        since = self._since.get(device.uuid) or int((time.time() - INTERVAL) * 1e6)
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(device.handle, since)
        except nvml.NVMLError as error:
            _raise_if_lost(error)
            if error.value in _NO_SAMPLES:
                return {}
            gaps[f"utilisation by process of GPU {device.label}"] = str(error)
            return None
        self._since[device.uuid] = max([since, *(one.timeStamp for one in samples)])
        by_process: dict[int, list[Any]] = {}
        for one in samples:
            by_process.setdefault(one.pid, []).append(one)
        return {pid: _mean(those) for pid, those in by_process.items()}

    def _changed_gaps(self, gaps: dict[str, str]) -> Iterator[Row]:
        """What cannot be asked since this look, and (with an empty reason) what can be again."""
        for what in self._gaps.keys() - gaps.keys():
            yield ("coverage", 0, 0, what, "", "")
        for what, why in gaps.items():
            if self._gaps.get(what) != why:
                yield ("coverage", 0, 0, what, why, "who burns this GPU is seen in part only")
        self._gaps = gaps


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, None where this device has none. Raises `NVMLError` where it is lost."""
    try:
        return question(*arguments)
    except nvml.NVMLError as error:
        _raise_if_lost(error)
        return None


def _raise_if_lost(error: nvml.NVMLError) -> None:
    if error.value in _DRIVER_GONE or error.value in _LOST:
        raise error


def _number(value: int | None) -> int:
    return _UNKNOWN if value is None else min(value, 0x7FFFFFFF)


def _percent(value: int | None) -> int:
    """Drivers are known to tell percentages beyond 100 now and then."""
    return value if value is not None and 0 <= value <= 100 else _UNKNOWN


def _mean(samples: list[Any]) -> tuple[int, ...]:
    columns = zip(*((one.smUtil, one.memUtil, one.encUtil, one.decUtil) for one in samples), strict=True)
    return tuple(_percent(sum(column) // len(samples)) for column in columns)


def _start(pid: int) -> int | None:
    """When a process started, nanoseconds since boot as /proc tells it: in whole clock ticks."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat.rpartition(b")")[2].split()[19]) * _TICK_NS
    except (OSError, IndexError, ValueError):
        return None


class _Channel:
    """The way to the watcher. Gone when the watcher is: raises `OSError` then."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLRDHUP)

    def send(self, rows: list[Row], failure: str = "", code: int = 0) -> None:
        moment = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for first in range(0, len(rows) or 1, _ROWS):
            packet = [moment, rows[first : first + _ROWS], failure, code]
            self._socket.send(msgpack.packb(packet, unicode_errors="replace"))

    def closed_within(self, seconds: float) -> bool:
        """Wait; whether the watcher has gone meanwhile."""
        return bool(self._poll.poll(max(0, int(seconds * 1000))))


def main(descriptor: int) -> None:
    """Sample until the watcher is gone or nothing can be asked."""
    channel = _Channel(descriptor)
    try:
        nvml.nvmlInit()
        sampler = Sampler()
        if not nvml.nvmlDeviceGetCount():
            channel.send([], "the driver knows no GPU", NO_GPU)
            return
        while True:
            began = time.monotonic()
            channel.send(sampler.look())
            if channel.closed_within(began + INTERVAL - time.monotonic()):
                return
    except nvml.NVMLError as error:
        channel.send([], str(error), error.value)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except OSError:
        sys.exit(1)
