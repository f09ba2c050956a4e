"""The GPUs, and which process uses how much of which: what NVML's samples add up to."""

from __future__ import annotations

from dataclasses import dataclass

from agentwatch.enrich.bounded import put
from agentwatch.enrich.processes import Key, Process

GPUS_KEPT = 512  # GPUs and instances remembered
USES_KEPT = 4096  # uses remembered, the longest silent one goes first
LONGEST_STEP = 5_000_000_000  # ns that a sample stands for at most: what was between is not known
UNKNOWN = -1


@dataclass(slots=True)
class Gpu:
    """A GPU or a MIG instance; values of the last sample, `UNKNOWN` where NVML does not tell them.

    `label` is its number, `0`, an instance's `0/1`. `step` is the time in ns that the last sample
    stands for. `power` in milliwatts, `sent` and `received` in KB/s, memory in bytes.
    """

    uuid: str
    label: str
    name: str
    parent: str
    instance: int
    memory_total: int
    driver: str
    gone: str = ""  # why it cannot be seen any more
    time: int = 0
    step: int = 0
    sm: int = UNKNOWN
    memory_busy: int = UNKNOWN
    encoder: int = UNKNOWN
    memory: int = 0
    power: int = UNKNOWN
    temperature: int = UNKNOWN
    sent: int = UNKNOWN
    received: int = UNKNOWN
    processes: int = 0


@dataclass(slots=True)
class GpuUse:
    """A process's use of a GPU in its last sample, and since the beginning.

    `busy` is GPU time in ns: a second at 50 % of the multiprocessors is half a second. `by_device`:
    the driver tells no shares of processes, and this is the only one, so that the GPU's are its own.
    """

    gpu: Gpu
    process: Process
    time: int = 0
    sm: int = UNKNOWN
    memory_busy: int = UNKNOWN
    encoder: int = UNKNOWN
    decoder: int = UNKNOWN
    memory: int = 0
    by_device: bool = False
    busy: int = 0

    @property
    def current(self) -> bool:
        """Whether the last look at the GPU found it."""
        return not self.gpu.gone and self.time == self.gpu.time


class GpuTable:
    """All GPUs by UUID, all uses by process and GPU."""

    def __init__(self) -> None:
        self._gpus: dict[str, Gpu] = {}
        self._uses: dict[tuple[Key, str], GpuUse] = {}

    def known(self, uuid: str) -> Gpu | None:
        return self._gpus.get(uuid)

    def all(self) -> list[Gpu]:
        """Every GPU remembered, in the order of first sight."""
        return list(self._gpus.values())

    def use_of(self, process: Process, uuid: str) -> GpuUse | None:
        """What a process made of a GPU."""
        return self._uses.get((process.key, uuid))

    def current(self) -> dict[Key, list[GpuUse]]:
        """By process, what the last look found."""
        found: dict[Key, list[GpuUse]] = {}
        for (key, _), use in self._uses.items():
            if use.current:
                found.setdefault(key, []).append(use)
        return found

    def time_by_process(self) -> dict[Key, int]:
        """GPU time of each process remembered, in ns."""
        found: dict[Key, int] = {}
        for (key, _), use in self._uses.items():
            found[key] = found.get(key, 0) + use.busy
        return found

    def appear(
        self, uuid: str, label: str, name: str, parent: str, instance: int, memory: int, driver: str
    ) -> None:
        """A GPU can be seen."""
        put(self._gpus, uuid, Gpu(uuid, label, name, parent, instance, memory, driver), GPUS_KEPT)

    def sample(self, time: int, uuid: str, sm: int, memory_busy: int, encoder: int, memory: int, power: int,
               temperature: int, sent: int, received: int, processes: int) -> None:  # fmt: skip
        """How busy a GPU is."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            return
        gpu.step = min(max(0, time - gpu.time), LONGEST_STEP) if gpu.time else 0
        gpu.time = time
        gpu.sm, gpu.memory_busy, gpu.encoder, gpu.memory = sm, memory_busy, encoder, memory
        gpu.power, gpu.temperature, gpu.sent, gpu.received = power, temperature, sent, received
        gpu.processes = processes

    def use(self, time: int, process: Process, uuid: str, sm: int, memory_busy: int, encoder: int,
            decoder: int, memory: int) -> int:  # fmt: skip
        """How much of it a process uses. Returns the GPU time that this adds, in ns."""
        gpu = self._gpus.get(uuid)
        if gpu is None:
            return 0
        key = process.key, uuid
        use = self._uses.pop(key, None)
        if use is None or use.gpu is not gpu:
            use = GpuUse(gpu, process, busy=use.busy if use else 0)
        self._uses[key] = use  # to the end: the order is that of the last sample
        if len(self._uses) > USES_KEPT:
            del self._uses[next(iter(self._uses))]
        use.time, use.memory = time, memory
        use.by_device = sm == UNKNOWN and gpu.processes == 1 and gpu.sm != UNKNOWN
        if use.by_device:
            sm, memory_busy, encoder = gpu.sm, gpu.memory_busy, gpu.encoder
        use.sm, use.memory_busy, use.encoder, use.decoder = sm, memory_busy, encoder, decoder
        busy = max(0, sm) * gpu.step // 100
        use.busy += busy
        return busy

    def go(self, uuid: str, reason: str) -> tuple[str, ...]:
        """A GPU, or (without a UUID) every one, cannot be seen any more. The UUIDs of those that were."""
        gone = [gpu for gpu in self._gpus.values() if not gpu.gone and uuid in ("", gpu.uuid)]
        for gpu in gone:
            gpu.gone = reason or "gone"
        return tuple(gpu.uuid for gpu in gone)
