"""What samples of GPUs add up to, by process and by agent."""

from __future__ import annotations

from typing import Any

from agentwatch.enrich import gpus
from agentwatch.enrich.gpus import LONGEST_STEP, GpuUse
from agentwatch.enrich.state import Change, State
from agentwatch.schema import decode
from agentwatch.schema.events import HOST, Type
from tests.schema.records import raw

SECOND = 1_000_000_000
START = 123_456_789_012  # of the process: 2 us and more behind a clock tick
TICKS = START // 10_000_000 * 10_000_000


class Machine:
    """A state, and the sampler's records for it."""

    def __init__(self) -> None:
        self.state = State()
        self.now = 200 * SECOND

    def note(self, type: Type, *fields: Any, tgid: int = 0, start: int = 0) -> Change | None:
        batch = decode.pack_notes([(int(type), self.now, HOST, tgid, start, *fields)])
        (row,) = decode.notes(batch)
        return self.state.apply(1, row)

    def device(self, uuid: str = "GPU-1", label: str = "0", parent: str = "") -> Change | None:
        return self.note(Type.GPU_DEVICE, uuid, label, "H100", parent, 3 if parent else -1, 80 << 30, "550")

    def look(
        self, *uses: tuple[int, int], uuid: str = "GPU-1", sm: int = 90, after: int = SECOND, count: int = 0
    ) -> list[Change]:
        """A sample, and uses of it as (process id, percent)."""
        self.now += after
        self.note(Type.GPU_SAMPLE, uuid, sm, 10, 0, 1 << 30, 300_000, 50, 1, 2, count or len(uses))
        changes = [
            self.note(Type.GPU_USE, uuid, share, 5, 0, 0, 1 << 30, tgid=pid, start=TICKS)
            for pid, share in uses
        ]
        return [change for change in changes if change is not None]

    def agent_process(self, pid: int = 100) -> None:
        for row in decode.slots(raw("fork", tgid=pid, start=START, parent=1, parent_start=1)):
            self.state.apply(1, row)

    def use(self, pid: int = 100, uuid: str = "GPU-1") -> GpuUse:
        process = self.state.processes.running(pid, TICKS)
        assert process is not None
        use = self.state.gpus.use_of(process, uuid)
        assert use is not None
        return use


def machine() -> Machine:
    made = Machine()
    made.agent_process()
    made.device()
    return made


def test_use_belongs_to_the_process_that_had_the_id_and_to_its_agent() -> None:
    made = machine()
    (change,) = made.look((100, 80))
    assert change.process.key == (100, START)
    assert change.agent.number == 1
    assert made.use().sm == 80


def test_process_of_nobody_and_of_another_time_is_no_agents() -> None:
    made = machine()
    assert not made.look((4711, 80))
    made.now += SECOND
    assert made.note(Type.GPU_USE, "GPU-1", 80, 0, 0, 0, 1, tgid=100, start=TICKS - 10_000_000) is None
    assert made.note(Type.GPU_USE, "GPU-1", 80, 0, 0, 0, 1, tgid=100, start=TICKS + 10_000_000) is None
    assert not made.state.gpus.current()


def test_gpu_time_adds_up_by_process_and_agent() -> None:
    made = machine()
    made.agent_process(200)
    made.look((100, 50), (200, 10))
    for _ in range(4):
        made.look((100, 50), (200, 10))
    # The first sample says nothing about the time before it.
    assert made.use().busy == 2 * SECOND
    assert made.state.gpus.time_by_process() == {(100, START): 2 * SECOND, (200, START): 4 * SECOND // 10}
    assert made.state.agent(1).gpu_time == 24 * SECOND // 10


def test_time_without_samples_is_not_counted_as_use() -> None:
    made = machine()
    made.look((100, 100))
    made.look((100, 100), after=1000 * SECOND)
    assert made.use().busy == LONGEST_STEP


def test_share_of_the_only_process_is_the_devices() -> None:
    made = machine()
    made.look((100, -1), sm=70)
    assert (made.use().sm, made.use().by_device) == (70, True)
    made.look((100, -1), sm=70, count=2)
    assert (made.use().sm, made.use().by_device) == (-1, False)


def test_current_is_what_the_last_look_found() -> None:
    made = machine()
    made.look((100, 80))
    assert list(made.state.gpus.current()) == [(100, START)]
    made.look()
    assert not made.state.gpus.current()
    made.look((100, 80))
    made.note(Type.GPU_GONE, "GPU-1", "GPU is lost")
    assert not made.state.gpus.current()


def test_all_gpus_are_gone_without_the_driver_and_each_is_told_once() -> None:
    made = machine()
    made.device("GPU-2", "1")
    (change,) = [made.note(Type.GPU_GONE, "", "Driver Not Loaded")]
    assert change is not None
    assert change.fields == (("GPU-1", "GPU-2"), "Driver Not Loaded")
    (again,) = [made.note(Type.GPU_GONE, "", "Driver Not Loaded")]
    assert again is not None
    assert again.fields[0] == ()
    made.device()
    gpu = made.state.gpus.known("GPU-1")
    assert gpu is not None
    assert not gpu.gone


def test_use_goes_on_after_a_gpu_is_back() -> None:
    made = machine()
    made.look((100, 100))
    made.look((100, 100))
    made.note(Type.GPU_GONE, "GPU-1", "GPU is lost")
    made.device()
    made.look((100, 100))
    assert made.use().busy == SECOND


def test_what_is_remembered_is_bounded() -> None:
    made = machine()
    for number in range(gpus.GPUS_KEPT + 5):
        made.device(f"GPU-{number + 10}", "0")
    assert len(made.state.gpus.all()) == gpus.GPUS_KEPT
    made.device()
    for pid in range(1, gpus.USES_KEPT + 5):
        made.agent_process(pid)
        made.note(Type.GPU_USE, "GPU-1", 1, 0, 0, 0, 1, tgid=pid, start=TICKS)
    assert len(made.state.gpus.time_by_process()) == gpus.USES_KEPT


def test_records_of_gpus_that_were_never_told_say_nothing() -> None:
    made = Machine()
    made.agent_process()
    assert made.look((100, 50), uuid="GPU-9")
    assert not made.state.gpus.all()
    assert not made.state.gpus.current()


def test_gpu_time_of_a_tree_is_that_of_all_below() -> None:
    made = machine()
    made.agent_process(300)
    made.agent_process(200)
    found = {pid: made.state.processes.running(pid, TICKS) for pid in (100, 200, 300)}
    root, child, other = found[100], found[200], found[300]
    assert root is not None
    assert child is not None
    assert other is not None
    child.parent = root.key
    for _ in range(3):
        made.look((100, 10), (200, 50), (300, 1))
    assert made.state.gpu_time(root) == 2 * SECOND * 60 // 100
    assert made.state.gpu_time(child) == SECOND
