"""GPUs that the test makes up: the stand-in of NVIDIA's library, tests/programs/nvml.c."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agentwatch.sources.nvml import LIBRARY
from tests.lab import PROGRAMS, build_folder

BUSY, IDLE = 97, 0  # percent
GIB = 1 << 30
# Codes of nvml.h.
UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION = 1, 3, 4
DRIVER_NOT_LOADED, GPU_IS_LOST, VERSION_MISMATCH = 9, 15, 18


@functools.cache
def library(*flags: str) -> Path:
    """The folder with the stand-in, compiled once in a test run with these flags."""
    folder = build_folder() / f"nvml{''.join(flags)}"
    folder.mkdir()
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags]
    subprocess.run(["gcc", *options, "-o", folder / LIBRARY, PROGRAMS / "nvml.c"], check=True)
    return folder


@dataclass
class Gpus:
    """What the stand-in says. Change what is here, then `tell`."""

    path: Path
    driver: str = "550.54.15"
    gpus: dict[str, str] = field(default_factory=dict)  # values of each GPU, by UUID
    instances: dict[str, str] = field(default_factory=dict)  # of each MIG instance
    processes: dict[tuple[str, int], str] = field(default_factory=dict)  # by GPU and process id
    orders: list[str] = field(default_factory=list)  # `fail ...` and `hang ...`

    def gpu(
        self, uuid: str, sm: int = IDLE, *, encoder: int = 0, transfer: int = 0, memory: int = 30
    ) -> None:
        """A GPU of 80 GiB. `transfer` in KB/s each way; -1 is not supported."""
        power = 300_000 if sm > 50 else 60_000
        values = (80 * GIB, 2 * GIB, sm, memory, power, 55, encoder, transfer, transfer, "Stand-in H100")
        self.gpus[uuid] = " ".join(map(str, values))

    def instance(self, uuid: str, parent: str, number: int) -> None:
        """A MIG instance of 10 GiB."""
        self.instances[uuid] = f"{parent} {number} {10 * GIB} {GIB} Stand-in H100 MIG 1g.10gb"

    def process(
        self, uuid: str, pid: int, sm: int = BUSY, *, encoder: int = 0, memory: int = 2 * GIB
    ) -> None:
        """A process that uses a GPU."""
        self.processes[uuid, pid] = f"{uuid} {pid} {sm} 20 {encoder} {memory}"

    def tell(self) -> None:
        """Make it so, at once for whoever asks next."""
        lines = [
            f"driver {self.driver}",
            *(f"gpu {uuid} {values}" for uuid, values in self.gpus.items()),
            *(f"mig {uuid} {values}" for uuid, values in self.instances.items()),
            *(f"process {values}" for values in self.processes.values()),
            *self.orders,
        ]
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self.path)

    def unload(self) -> None:
        """The driver is not there any more."""
        self.path.unlink(missing_ok=True)


def stand_in(path: Path, setenv: Callable[[str, str], None], *flags: str) -> Gpus:
    """Have those who start now load the stand-in, without a driver until `tell`."""
    setenv("LD_LIBRARY_PATH", str(library(*flags)))
    setenv("NVML_STATE", str(path))
    return Gpus(path)
