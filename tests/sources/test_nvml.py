"""GPUs as a source: the real sampler and pynvml over the stand-in of NVIDIA's library."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentwatch.schema.events import BY_NUMBER, Type
from agentwatch.sources import nvml
from agentwatch.sources.nvml import Nvml
from tests.lab import eventually
from tests.lab.gpu import (
    BUSY,
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNINITIALIZED,
    VERSION_MISMATCH,
    Gpus,
    stand_in,
)

FIRST, SECOND = "GPU-11111111", "GPU-22222222"


class Notes:
    """Takes the records of a source."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def note(
        self, type: Type, agent: int, *fields: Any, tgid: int = 0, start: int = 0, time: int = 0
    ) -> None:
        event = BY_NUMBER[type]
        values = dict(zip((field.name for field in event.fields), fields, strict=True))
        self.all.append((event.name, values | {"tgid": tgid, "start": start, "time": time}))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [values for event, values in self.all if event == name]


class Sampled(Notes):
    """The source over the stand-in."""

    def __init__(self) -> None:
        super().__init__()
        self.source = Nvml(self)  # type: ignore[arg-type]

    def until(self, name: str, count: int = 1, **values: Any) -> dict[str, Any]:
        """Sweep until there are so many records with these values; the last one."""

        def found() -> list[dict[str, Any]]:
            self.source.sweep()
            those = [one for one in self.named(name) if values.items() <= one.items()]
            return those if len(those) >= count else []

        return eventually(found, 20)[-1]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """A machine with NVIDIA's library; no driver is loaded until something is told."""
    monkeypatch.setattr(nvml, "RETRY_SECONDS", (0.05, 0.1))
    return stand_in(tmp_path / "state", monkeypatch.setenv)


@pytest.fixture
def sampled(gpus: Gpus) -> Iterator[Sampled]:
    made = Sampled()
    yield made
    made.source.close()


def start_ticks(pid: int) -> int:
    """Start of a process in clock ticks, as ps sees it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_devices_and_uses_are_told(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST, BUSY, transfer=5)
    gpus.gpu(SECOND)
    gpus.process(FIRST, os.getpid(), BUSY)
    gpus.tell()
    sampled.until("gpu_sample", uuid=SECOND)
    first, second = sampled.named("gpu_device")
    assert (first["uuid"], first["label"], first["driver"]) == (FIRST, "0", gpus.driver)
    assert (second["label"], second["instance"], second["parent"]) == ("1", -1, "")
    sample = sampled.named("gpu_sample")[0]
    assert (sample["sm"], sample["sent"], sample["power"], sample["processes"]) == (BUSY, 5, 300_000, 1)
    use = sampled.until("gpu_use")
    assert (use["uuid"], use["sm"], use["memory"], use["tgid"]) == (FIRST, BUSY, 2 << 30, os.getpid())
    assert use["start"] == start_ticks(os.getpid()) * 10_000_000


def test_transfers_are_not_counted_where_nobody_can_make_any(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST, transfer=5)
    gpus.tell()
    assert sampled.until("gpu_sample")["sent"] == -1


def test_ended_process_and_idle_process(gpus: Gpus, sampled: Sampled) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    gpus.gpu(FIRST)
    gpus.process(FIRST, gone.pid)
    gpus.process(FIRST, os.getpid(), 0)
    gpus.tell()
    sampled.until("gpu_use")
    assert [(use["tgid"], use["sm"]) for use in sampled.named("gpu_use")] == [(os.getpid(), 0)]


def test_mig_instances_are_devices_of_their_own(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST, -1)
    gpus.instance("MIG-1", FIRST, 7)
    gpus.instance("MIG-2", FIRST, 9)
    gpus.process("MIG-2", os.getpid(), -1)
    gpus.tell()
    sampled.until("gpu_use", uuid="MIG-2")
    labels = {
        one["uuid"]: (one["label"], one["instance"], one["parent"]) for one in sampled.named("gpu_device")
    }
    assert labels["MIG-1"] == ("0/0", 7, FIRST)
    assert labels["MIG-2"] == ("0/1", 9, FIRST)
    assert sampled.named("gpu_use")[0]["sm"] == -1
    gap = sampled.until("coverage")
    assert (gap["probe"], gap["error"]) == ("utilisation by process of GPU 0/1", "Not Supported")


def test_missing_driver_is_said_and_found_when_it_is_loaded(gpus: Gpus, sampled: Sampled) -> None:
    gone = sampled.until("gpu_gone", reason="Driver Not Loaded")
    assert gone["uuid"] == ""
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")
    assert len(sampled.named("gpu_gone")) == 1, "the same failure was said again"
    # Without a device node there is no GPU that could be used unseen.
    assert not sampled.named("coverage")


@pytest.mark.parametrize(
    ("code", "why"), [(DRIVER_NOT_LOADED, "Driver Not Loaded"), (UNINITIALIZED, "Uninitialized")]
)
def test_driver_that_vanishes_is_a_gap_until_it_is_back(
    gpus: Gpus, sampled: Sampled, code: int, why: str
) -> None:
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")
    gpus.orders = [f"fail * {code}"]
    gpus.tell()
    assert sampled.until("coverage")["error"] == why
    assert sampled.named("gpu_gone")[-1] | {"time": 0} == {
        "uuid": "", "reason": why, "tgid": 0, "start": 0, "time": 0,
    }  # fmt: skip
    gpus.orders.clear()
    gpus.tell()
    sampled.until("gpu_device", 2)
    assert sampled.until("coverage", 2) == {
        "probe": "nvml", "error": "", "cost": "", "tgid": 0, "start": 0, "time": 0,
    }  # fmt: skip


def test_library_and_driver_that_do_not_fit_are_a_gap(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST)
    gpus.orders = [f"fail nvmlInitWithFlags {VERSION_MISMATCH}"]
    gpus.tell()
    assert "mismatch" in sampled.until("coverage")["error"]


@pytest.mark.parametrize("function", ["*", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetHandleByIndex_v2"])
def test_lost_gpu_is_told_and_the_others_go_on(gpus: Gpus, sampled: Sampled, function: str) -> None:
    gpus.gpu(FIRST)
    gpus.gpu(SECOND)
    gpus.tell()
    sampled.until("gpu_sample", uuid=SECOND)
    gpus.orders = [f"fail {function} {GPU_IS_LOST} {FIRST}"]
    gpus.tell()
    gone = sampled.until("gpu_gone")
    assert (gone["uuid"], gone["reason"]) == (FIRST, "GPU is lost")
    before = len(sampled.named("gpu_sample"))
    sampled.until("gpu_sample", before + 1)
    assert {one["uuid"] for one in sampled.named("gpu_sample")[before:]} == {SECOND}
    gpus.orders.clear()
    gpus.tell()
    sampled.until("gpu_device", 2, uuid=FIRST)


def test_gpu_that_comes_later_and_is_taken_away(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")
    gpus.gpu(SECOND)
    gpus.tell()
    sampled.until("gpu_device", uuid=SECOND)
    del gpus.gpus[SECOND]
    gpus.tell()
    assert sampled.until("gpu_gone", uuid=SECOND)["reason"] == "it is not listed any more"


@pytest.mark.parametrize(
    ("code", "why"), [(NO_PERMISSION, "Insufficient Permissions"), (NOT_SUPPORTED, "Not Supported")]
)
def test_what_may_not_be_asked_is_a_gap_and_the_rest_is_told(
    gpus: Gpus, sampled: Sampled, code: int, why: str
) -> None:
    gpus.gpu(FIRST, BUSY)
    gpus.process(FIRST, os.getpid())
    gpus.orders = [
        f"fail nvmlDeviceGetProcessUtilization {code}",
        f"fail nvmlDeviceGetPowerUsage {code}",
        f"fail nvmlDeviceGetMigMode {code}",
    ]
    gpus.tell()
    gap = sampled.until("coverage")
    assert (gap["probe"], gap["error"]) == ("utilisation by process of GPU 0", why)
    use = sampled.until("gpu_use", 2)
    assert (use["sm"], use["memory"]) == (-1, 2 << 30)
    assert sampled.named("gpu_sample")[0]["power"] == -1
    assert len(sampled.named("coverage")) == 1, "a gap was told twice"
    gpus.orders.clear()
    gpus.tell()
    assert sampled.until("coverage", 2)["error"] == ""


def test_processes_that_may_not_be_listed_are_a_gap(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST, BUSY)
    gpus.orders = [f"fail nvmlDeviceGetComputeRunningProcesses_v3 {NO_PERMISSION}"]
    gpus.tell()
    assert sampled.until("coverage")["probe"] == "processes of GPU 0"


def test_driver_that_does_not_answer_is_a_gap_and_never_waited_for(
    gpus: Gpus, sampled: Sampled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "SILENT_SECONDS", 2.0)
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")
    gpus.orders = ["hang nvmlDeviceGetMemoryInfo"]
    gpus.tell()
    assert sampled.until("coverage")["error"] == "the driver does not answer"
    gpus.orders.clear()
    gpus.tell()
    sampled.until("gpu_device", 2)


def test_sampler_that_dies_is_said_and_started_again(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")
    assert sampled.source._child is not None
    sampled.source._child.kill()
    assert sampled.until("coverage")["error"] == "the sampler was ended by signal 9"
    sampled.until("gpu_device", 2)


def test_sampler_ends_with_its_watcher(gpus: Gpus, sampled: Sampled) -> None:
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")
    child, channel = sampled.source._child, sampled.source._channel
    assert child is not None
    assert channel is not None
    channel.close()
    child.wait(timeout=10)


def test_driver_that_knows_no_gpu_is_asked_again(gpus: Gpus, sampled: Sampled) -> None:
    gpus.tell()
    sampled.until("gpu_gone", reason="the driver knows no GPU")
    gpus.gpu(FIRST)
    gpus.tell()
    sampled.until("gpu_sample")


def test_driver_from_before_the_third_version_of_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = stand_in(tmp_path / "state", monkeypatch.setenv, "-DOLD_DRIVER")
    gpus.gpu(FIRST)
    gpus.process(FIRST, os.getpid())
    gpus.tell()
    sampled = Sampled()
    assert sampled.until("gpu_use")["sm"] == BUSY
    sampled.source.close()


def test_without_library_and_node_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "installed", lambda: False)
    sampled = Sampled()
    sampled.source.sweep()
    assert sampled.source._child is None
    assert not sampled.all


def test_library_is_found_where_the_loader_looks(
    gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nvml.library() == Path(os.environ["LD_LIBRARY_PATH"]) / nvml.LIBRARY
    monkeypatch.setattr(nvml, "_FOLDERS", ())
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert nvml.library() is None


def test_codes_are_those_of_the_interface() -> None:
    import pynvml  # type: ignore[import-untyped]  # noqa: PLC0415 (the watcher itself never loads it)

    assert nvml._DRIVER_NOT_LOADED == pynvml.NVML_ERROR_DRIVER_NOT_LOADED == DRIVER_NOT_LOADED
    assert nvml._GPU_NOT_FOUND == pynvml.NVML_ERROR_GPU_NOT_FOUND


@pytest.mark.skipif(not nvml.device_nodes(), reason="needs a GPU of NVIDIA's")
def test_real_driver_answers() -> None:
    sampled = Sampled()
    sample = sampled.until("gpu_sample")
    sampled.source.close()
    (first, *_) = sampled.named("gpu_device")
    assert first["driver"]
    assert first["memory"] > 0
    assert 0 <= sample["memory"] <= first["memory"]
    assert -1 <= sample["sm"] <= 100
