"""What is made of samples of GPUs: loads, rhythm, whose they are, and the flows beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import gpu
from agentwatch.detect.chain import Chain
from agentwatch.detect.gpu import GRACE, TRANSFER, WINDOW, GpuWork, rhythm
from agentwatch.detect.request import NoRequests
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import State
from agentwatch.event import Value
from agentwatch.pipeline import Pipeline
from agentwatch.resources import RULES
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.schema import decode
from agentwatch.schema.events import HOST, Type
from agentwatch.schema.fields import FIELDS
from agentwatch.sources.base import Batch, BatchKind
from tests.detect.test_flow_shape import mining_progress
from tests.schema.records import raw

SECOND = 1_000_000_000
UNKNOWN = -1


class Fold:
    """State and chain over the sampler's records about process 100, which a tool's shell started."""

    def __init__(self, wanted: Sequence[str] = ("gpu",)) -> None:
        self.state = State()
        self.chain = Chain(self.state, wanted, NoRequests())
        self.now = 100 * SECOND
        self.seq = 0
        self.process = self.state.processes.get(100, 0, 1)
        self.process.registered = False

    def note(self, type: Type, *fields: Any, tgid: int = 0) -> list[Sighting]:
        return self.rows(decode.notes(decode.pack_notes([(int(type), self.now, HOST, tgid, 0, *fields)])))

    def rows(self, rows: Sequence[decode.Row]) -> list[Sighting]:
        found = []
        for row in rows:
            self.seq += 1
            change = self.state.apply(self.seq, row)
            found += [] if change is None else self.chain.of(change)
        return found

    def device(self, uuid: str = "GPU-1", parent: str = "") -> list[Sighting]:
        label = "0/1" if parent else "0"
        return self.note(Type.GPU_DEVICE, uuid, label, "H100", parent, 3 if parent else -1, 80 << 30, "550")

    def look(
        self,
        sm: int,
        *,
        moved: int = 0,
        encoder: int = 0,
        after: int = SECOND,
        uuid: str = "GPU-1",
        others: int = 1,
    ) -> dict[str, Value]:
        """A look at the GPU that the process uses: the event of it."""
        self.now += after
        moves = (moved, 0) if moved != UNKNOWN else (UNKNOWN, UNKNOWN)
        self.note(Type.GPU_SAMPLE, uuid, sm, 10, 0, 1 << 30, 300_500, 50, *moves, others)
        (event,) = self.note(Type.GPU_USE, uuid, sm, 5, encoder, 0, 2 << 30, tgid=100)
        assert set(event.fields) <= {field.name for field in FIELDS["gpu"][1]}
        self.last = event
        return dict(event.fields)

    def looks(self, count: int, sm: int = 95, **more: Any) -> dict[str, Value]:
        for _ in range(count):
            found = self.look(sm, **more)
        return found


@pytest.fixture
def fold() -> Fold:
    made = Fold()
    made.device()
    return made


def test_use_is_told_with_all_that_is_known(fold: Fold) -> None:
    found = fold.look(80)
    assert (found["Kind"], found["Device"], found["DeviceName"], found["Mig"]) == (
        "use",
        "0",
        "H100",
        "false",
    )
    assert (found["SmPercent"], found["MemoryPercent"], found["MemoryBytes"]) == (80, 5, 2 << 30)
    assert (found["PowerWatts"], found["Measured"], found["Registered"]) == (300, "process", "false")
    assert (found["SustainedSeconds"], found["Rhythm"], found["MiningFlow"]) == (0, None, None)


def test_nothing_is_made_where_no_rule_asks() -> None:
    fold = Fold(("flow",))
    fold.device()
    fold.note(Type.GPU_SAMPLE, "GPU-1", 90, 1, 1, 1, 1, 1, 0, 0, 1)
    assert not fold.note(Type.GPU_USE, "GPU-1", 90, 1, 0, 0, 1, tgid=100)
    assert fold.state.gpus.current(), "the views know all the same"


def test_load_lasts_over_short_pauses_and_ends_with_a_long_one(fold: Fold) -> None:
    assert fold.looks(11)["SustainedSeconds"] == 10
    assert fold.look(0, after=10 * SECOND)["SustainedSeconds"] == 20
    assert fold.look(95)["SustainedSeconds"] == 21
    assert fold.look(0, after=GRACE + SECOND)["SustainedSeconds"] == 0
    assert fold.look(95)["SustainedSeconds"] == 0
    assert fold.look(95)["SustainedSeconds"] == 1


def test_encoder_has_a_load_of_its_own(fold: Fold) -> None:
    found = fold.looks(5, sm=10, encoder=70)
    assert (found["SustainedSeconds"], found["EncoderSeconds"]) == (0, 4)


def test_flat_load_is_one_without_dips_and_transfers(fold: Fold) -> None:
    assert fold.looks(29)["Rhythm"] is None
    assert fold.look(97)["Rhythm"] == "flat"


def test_transfers_are_a_rhythm(fold: Fold) -> None:
    for number in range(60):
        found = fold.look(96, moved=TRANSFER if number % 10 == 0 else 5)
    assert (found["Rhythm"], found["TransferPercent"]) == ("transfers", 10)


def test_dips_are_a_rhythm_with_unknown_transfers_too(fold: Fold) -> None:
    for number in range(60):
        found = fold.look(20 if number % 12 == 6 else 96, moved=UNKNOWN)
    assert (found["Rhythm"], found["TransferPercent"]) == ("dips", None)


def test_without_knowing_transfers_no_load_is_called_flat(fold: Fold) -> None:
    assert fold.looks(60, moved=UNKNOWN)["Rhythm"] is None


def test_rhythm_is_of_this_load_not_the_one_before(fold: Fold) -> None:
    fold.looks(60, moved=TRANSFER)
    fold.look(0, after=2 * GRACE)
    assert fold.looks(40)["Rhythm"] == "flat"


@given(st.lists(st.integers(-1, 100), max_size=WINDOW), st.lists(st.booleans(), max_size=WINDOW))
def test_rhythm_is_one_of_its_words(percents: list[int], moved: list[bool]) -> None:
    assert rhythm(percents, moved) in (None, "dips", "transfers", "flat")


def test_mig_instance_is_told_without_shares(fold: Fold) -> None:
    fold.device("MIG-1", "GPU-1")
    found = fold.look(UNKNOWN, uuid="MIG-1", others=2)
    assert (found["Device"], found["Mig"], found["SmPercent"]) == ("0/1", "true", None)
    assert (found["SustainedSeconds"], found["MemoryBytes"]) == (0, 2 << 30)


def test_share_of_the_only_process_is_measured_at_the_device(fold: Fold) -> None:
    fold.now += SECOND
    fold.note(Type.GPU_SAMPLE, "GPU-1", 88, 10, 0, 1 << 30, 300_000, 50, 0, 0, 1)
    (event,) = fold.note(Type.GPU_USE, "GPU-1", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 2 << 30, tgid=100)
    assert (event.fields["SmPercent"], event.fields["Measured"]) == (88, "device")


def test_gpu_seconds_add_up(fold: Fold) -> None:
    assert fold.looks(11, sm=50)["GpuSeconds"] == 5


def test_gpus_that_appear_and_are_lost_are_events_of_the_host(fold: Fold) -> None:
    (event,) = fold.device("GPU-2")
    assert (event.fields["Kind"], event.fields["Uuid"], event.agent) == ("appeared", "GPU-2", "host")
    lost = fold.note(Type.GPU_GONE, "", "Driver Not Loaded")
    assert [(one.fields["Kind"], one.fields["Uuid"], one.fields["Reason"]) for one in lost] == [
        ("lost", "GPU-1", "Driver Not Loaded"),
        ("lost", "GPU-2", "Driver Not Loaded"),
    ]
    assert not fold.note(Type.GPU_GONE, "", "Driver Not Loaded")


def test_each_loss_is_an_alert_and_one_of_the_driver_a_single_one(tmp_path: Path) -> None:
    alerts: list[dict[str, Any]] = []
    rules = load_rules([RULES / "gpu" / "gpu_lost.yml"], cache=tmp_path)
    pipeline = Pipeline(Engine(rules), sinks=[alerts.append])

    def note(time: int, type: Type, *fields: object) -> None:
        batch = decode.pack_notes([(int(type), time, HOST, 0, 0, *fields)])
        pipeline.process((Batch(BatchKind.NOTES, batch),))

    for time in (1, 2):
        for uuid in ("GPU-1", "GPU-2"):
            note(time, Type.GPU_DEVICE, uuid, "0", "H100", "", -1, 80 << 30, "550")
            note(time, Type.GPU_GONE, uuid, "GPU is lost")
    assert [alert["event"]["Uuid"] for alert in alerts] == ["GPU-1", "GPU-2"] * 2
    for uuid in ("GPU-1", "GPU-2"):
        note(3, Type.GPU_DEVICE, uuid, "0", "H100", "", -1, 80 << 30, "550")
    note(4, Type.GPU_GONE, "", "Driver Not Loaded")
    assert len(alerts) == 5


CLIENT: dict[str, Any] = {
    "cookie": 5, "family": 2, "socktype": 1, "protocol": 6, "local": b"\x0a\0\0\1", "local_port": 4000,
    "remote": b"\x0a\0\0\2", "remote_port": 443, "start": 0,
}  # fmt: skip


def mine(fold: Fold, pid: int) -> None:
    """A process speaks stratum."""
    login = b'{"id":1,"method":"mining.subscribe","params":[]}\n'
    fields = CLIENT | {"message": 1, "sequence": 1, "packet_length": len(login), "length": len(login)}
    fold.rows(decode.slots(raw("connect", tgid=pid, time=fold.now, **CLIENT)))
    data = login.ljust(64, b"\0")
    fold.rows(decode.records(raw("payload", tgid=pid, time=fold.now, data=data, **fields)))


def test_mining_flow_of_the_process_is_named_and_shown(fold: Fold) -> None:
    mine(fold, 100)
    assert fold.look(90)["MiningFlow"] == "stratum"
    assert fold.last.flow is not None
    assert fold.last.flow.remote == "10.0.0.2"


@pytest.mark.parametrize(("score", "found"), [(90, "mining_shape"), (gpu.SHAPE - 1, None), ("much", None)])
def test_flow_of_mining_shape_counts_too(fold: Fold, score: object, found: str | None) -> None:
    fold.rows(decode.slots(raw("connect", tgid=100, time=fold.now, **CLIENT)))
    flow = fold.state.flows.known(5)
    assert flow is not None
    flow.attributes["mining_shape"] = score
    assert fold.look(90)["MiningFlow"] == found


def test_shape_of_mining_is_found_by_its_detector() -> None:
    fold = Fold(("gpu", "network_behaviour"))
    fold.device()
    fold.rows(decode.slots(raw("connect", tgid=100, time=fold.now, **CLIENT)))
    for record in mining_progress(900, **(CLIENT | {"tgid": 100})):
        fold.rows(decode.slots(record))
    fold.now = 1000 * SECOND
    assert fold.look(90)["MiningFlow"] == "mining_shape"


@pytest.mark.parametrize(("registered", "found"), [(False, "stratum"), (True, None)])
def test_flow_of_a_parent_counts_unless_it_is_the_registered_job(
    fold: Fold, registered: bool, found: str | None
) -> None:
    parent = fold.state.processes.get(90, 0, 1)
    parent.registered = registered
    fold.process.parent = parent.key
    mine(fold, 90)
    assert fold.look(90)["MiningFlow"] == found


def test_flow_of_another_process_does_not(fold: Fold) -> None:
    mine(fold, 300)
    assert fold.look(90)["MiningFlow"] is None


def test_flow_that_begins_later_is_found_soon(fold: Fold) -> None:
    fold.looks(20)
    mine(fold, 100)
    assert fold.looks(10)["MiningFlow"] == "stratum"


def test_loads_are_bounded(fold: Fold) -> None:
    work = GpuWork(fold.state)
    for number in range(gpu.LOADS_KEPT + 5):
        work._load((number, 1), "GPU-1")
    assert len(work._loads) == gpu.LOADS_KEPT


_NUMBERS = st.integers(-(2**63), 2**64 - 1)
_UUIDS = st.sampled_from(["GPU-1", "MIG-1", ""])
_RECORDS = st.one_of(
    st.tuples(st.just(Type.GPU_DEVICE), _UUIDS, st.text(), st.text(), _UUIDS, _NUMBERS, _NUMBERS, st.text()),
    st.tuples(st.just(Type.GPU_SAMPLE), _UUIDS, *[_NUMBERS] * 9),
    st.tuples(st.just(Type.GPU_USE), _UUIDS, *[_NUMBERS] * 5),
    st.tuples(st.just(Type.GPU_GONE), _UUIDS, st.text()),
)


@given(st.lists(st.tuples(_NUMBERS, _RECORDS), max_size=50))
def test_any_records_of_a_strange_trace_are_folded(records: list[tuple[int, tuple[Any, ...]]]) -> None:
    fold = Fold()
    for time, (type, *fields) in records:
        fold.now = time
        fold.note(type, *fields, tgid=100)
