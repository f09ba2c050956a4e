"""What processes of an agent do with GPUs: for how long, in which rhythm, and beside which flows.

A training job's load has a rhythm: batches come over PCIe, and steps, evaluations and checkpoints
leave gaps. A miner's has none. Neither is proof: rules ask for a second sign.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.enrich.facts import sighting
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.gpus import UNKNOWN, Gpu, GpuUse
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import Type

BUSY: Final = 50  # percent
GRACE: Final = 15_000_000_000  # ns below BUSY that do not end a load
TRANSFER: Final = 8 << 10  # KB/s over PCIe, both ways; commands to the GPU alone are far less
WINDOW: Final = 120  # samples of a load that its rhythm is judged by
ENOUGH: Final = 30  # samples that a judgement takes
DIP: Final = 15  # percent below the median
RARE: Final = 3  # percent of the samples: dips or transfers that are fewer are no rhythm
LOADS_KEPT: Final = 1024  # loads followed at once; the longest silent one is let go first
SHAPE: Final = 50  # of 100: how much a flow must have the shape of mining; honest ones stay below 30
FLOWS_LOOKED: Final = 10_000_000_000  # ns between looks for mining flows


@dataclass(slots=True)
class _Span:
    """Since when something has been busy, pauses up to GRACE included; ns since boot."""

    since: int = 0
    last: int = 0

    def add(self, time: int, percent: int) -> bool:
        """Takes a sample. Whether a new span began with it."""
        if time - self.last > GRACE:
            self.since = 0
        if percent < BUSY:
            return False
        self.last = time
        if self.since:
            return False
        self.since = time
        return True

    def seconds(self, time: int) -> int:
        return (time - self.since) // 1_000_000_000 if self.since else 0


@dataclass(slots=True)
class _Load:
    """One process on one GPU."""

    sm: _Span = field(default_factory=_Span)
    encoder: _Span = field(default_factory=_Span)
    percents: deque[int] = field(default_factory=lambda: deque(maxlen=WINDOW))
    moved: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def add(self, time: int, use: GpuUse) -> None:
        if self.sm.add(time, use.sm):
            self.percents.clear()
            self.moved.clear()
        self.encoder.add(time, use.encoder)
        if self.sm.since:
            self.percents.append(use.sm)
            if use.gpu.sent != UNKNOWN and use.gpu.received != UNKNOWN:
                self.moved.append(use.gpu.sent + use.gpu.received >= TRANSFER)


class GpuWork:
    """Events of category `gpu`."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._loads: dict[tuple[Key, str], _Load] = {}
        self._miners: dict[Key, Flow] = {}
        self._looked = -FLOWS_LOOKED
        self.handlers: dict[int, Handler] = {
            int(Type.GPU_USE): self._used,
            int(Type.FILE_ACCESS): self._file,
            int(Type.GPU_DEVICE): self._appeared,
            int(Type.GPU_GONE): self._gone,
        }

    def _used(self, change: Change) -> Sequence[Sighting]:
        """What a sample says about the agent and the GPU that it uses."""
        use = self._state.gpus.use_of(change.process, change.fields[0])
        return NOTHING if use is None else (self._use(change, use),)

    def _file(self, change: Change) -> Sequence[Sighting]:
        (opened,) = change.fields
        return (self._opened(change, opened.path),) if opened.kind == "gpu" else NOTHING

    def _appeared(self, change: Change) -> Sequence[Sighting]:
        return self._devices(change, (change.fields[0],), {"Kind": "appeared"})

    def _gone(self, change: Change) -> Sequence[Sighting]:
        gone, reason = change.fields
        return self._devices(change, gone, {"Kind": "lost", "Reason": reason})

    def _opened(self, change: Change, path: str) -> Sighting:
        """A device node was opened: NVIDIA's, AMD's or any that renders."""
        registered = str(change.process.registered).lower()
        own = {"Kind": "device_open", "Device": path, "Registered": registered}
        return sighting(self._state, "gpu", change, own)

    def _devices(self, change: Change, uuids: Sequence[str], found: dict[str, Value]) -> list[Sighting]:
        gpus = [gpu for gpu in map(self._state.gpus.known, uuids) if gpu is not None]
        change.process.exec_seq = change.seq  # it is of no process: each record is a cause of its own
        return [sighting(self._state, "gpu", change, {**found, **device_fields(gpu)}) for gpu in gpus]

    def _use(self, change: Change, use: GpuUse) -> Sighting:
        time, process = change.time, change.process
        load = self._load(process.key, use.gpu.uuid)
        load.add(time, use)
        change.flow = self._mining_flow(process, time)
        fields = device_fields(use.gpu)
        fields.update(
            {
                "Kind": "use",
                "SmPercent": _known(use.sm),
                "MemoryPercent": _known(use.memory_busy),
                "MemoryBytes": use.memory or None,
                "EncoderPercent": _known(use.encoder),
                "PowerWatts": None if use.gpu.power == UNKNOWN else use.gpu.power // 1000,
                "Measured": "device" if use.by_device else "process",
                "SustainedSeconds": load.sm.seconds(time),
                "EncoderSeconds": load.encoder.seconds(time),
                "TransferPercent": _share(load.moved),
                "Rhythm": rhythm(load.percents, load.moved),
                "GpuSeconds": use.busy // 1_000_000_000,
                "Registered": str(process.registered).lower(),
                "MiningFlow": mining(change.flow) if change.flow is not None else None,
            }
        )
        return sighting(self._state, "gpu", change, fields)

    def _load(self, key: Key, uuid: str) -> _Load:
        load = self._loads.pop((key, uuid), None)
        if load is None:
            load = _Load()
            if len(self._loads) >= LOADS_KEPT:
                del self._loads[next(iter(self._loads))]
        self._loads[key, uuid] = load  # to the end: the order is that of the last sample
        return load

    def _mining_flow(self, process: Process, time: int) -> Flow | None:
        """A mining flow of the process or of an ancestor that is not of the registered job."""
        if time - self._looked >= FLOWS_LOOKED:
            self._looked = time
            self._miners = {flow.owner: flow for flow in self._state.flows.all() if mining(flow)}
        if not self._miners:
            return None
        lineage = [process, *(one for one in self._state.processes.ancestors(process) if not one.registered)]
        return next((self._miners[one.key] for one in lineage if one.key in self._miners), None)


def mining(flow: Flow) -> str:
    """`stratum` or `mining_shape`, as far as detectors found it in a flow; else empty."""
    if flow.application == "stratum":
        return "stratum"
    score = flow.attributes.get("mining_shape")
    return "mining_shape" if isinstance(score, int) and score >= SHAPE else ""


def device_fields(gpu: Gpu) -> dict[str, Value]:
    """Fields that say which GPU it is about."""
    return {
        "Device": gpu.label,
        "DeviceName": gpu.name,
        "Uuid": gpu.uuid,
        "Mig": str(bool(gpu.parent)).lower(),
    }


def rhythm(percents: Sequence[int], moved: Sequence[bool]) -> str | None:
    """`dips`, `transfers` or `flat`; None where there are too few samples, or none of transfers."""
    if len(percents) < ENOUGH:
        return None
    floor = sorted(percents)[len(percents) // 2] - DIP
    if sum(percent < floor for percent in percents) * 100 >= RARE * len(percents):
        return "dips"
    share = _share(moved)
    if share is None:
        return None
    return "transfers" if share >= RARE else "flat"


def _share(moved: Sequence[bool]) -> int | None:
    return sum(moved) * 100 // len(moved) if moved else None


def _known(value: int) -> int | None:
    return None if value == UNKNOWN else value
