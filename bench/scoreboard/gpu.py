"""A GPU that a scenario's program works on, where the scenario has one: the stand-in of NVIDIA's library.

Which process loads it is told from outside, by what the witness saw run: a program named for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentwatch.enrich.state import State
from tests.lab.gpu import Gpus, library

WORKER = "gpuload"  # in the command line of whoever is to load the GPU
_UUID = "GPU-scoreboard"


class Gpu:
    """One GPU, idle until a worker runs."""

    def __init__(self, folder: Path) -> None:
        self._gpus = Gpus(folder / "gpus")
        self._loaded: set[int] = set()
        self._gpus.gpu(_UUID)
        self._gpus.tell()

    def look(self, state: State) -> None:
        """Have the workers that run by now load it."""
        for process in state.processes.all():
            if process.pid in self._loaded or process.status is not None:
                continue
            if any(WORKER in word for word in process.argv[:2]):
                self._loaded.add(process.pid)
                self._gpus.gpu(_UUID, sm=97, memory=80)
                self._gpus.process(_UUID, process.pid)
                self._gpus.tell()


@contextmanager
def stand_in(folder: Path) -> Iterator[Gpu]:
    """For a session that is made within: its sampler loads the stand-in."""
    before = {name: os.environ.get(name) for name in ("LD_LIBRARY_PATH", "NVML_STATE")}
    os.environ["LD_LIBRARY_PATH"], os.environ["NVML_STATE"] = str(library()), str(folder / "gpus")
    try:
        yield Gpu(folder)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
