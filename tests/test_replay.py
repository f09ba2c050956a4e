"""What replay tells: the same on any number of processes, in spans, of whole recordings."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch import replay as module
from agentwatch.replay import (
    Comparison,
    Difference,
    Moment,
    Order,
    Outcome,
    Recording,
    Replay,
    ReplayError,
    recordings,
    replay_all,
)
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import EVENTS, Ring, Type
from agentwatch.sources.base import Batch, BatchKind
from agentwatch.trace.past import Past
from agentwatch.trace.store import Rotation, segment_path, segment_paths
from agentwatch.trace.writer import TraceWriter
from tests.recordings import BEGAN, RULE, SECOND, connection, connections, header, record, rules_for


@pytest.fixture
def rules(tmp_path: Path) -> RuleSet:
    return rules_for(tmp_path)


@pytest.fixture
def trace(tmp_path: Path, rules: RuleSet) -> Path:
    return record(tmp_path / "run.awt", connections(5), rules)


@pytest.fixture
def segments(tmp_path: Path, rules: RuleSet) -> list[Path]:
    """One recording of five connections in several files."""
    path = record(tmp_path / "long.awt", connections(5), rules, rotation=Rotation(max_bytes=1))
    files = segment_paths(path)
    assert len(files) > 3
    return files


def _replayed(*work: Recording, order: Order | None = None, jobs: int = 1) -> tuple[list[Outcome], bytes]:
    told = io.BytesIO()
    outcomes = list(replay_all(work, order or Order(), told.write, jobs=jobs, progress=lambda *_: None))
    return outcomes, told.getvalue()


def _times(lines: bytes) -> list[str]:
    return [json.loads(line)["time"][11:19] for line in lines.splitlines()]


def test_every_alert_is_told_once(trace: Path) -> None:
    (outcome,), lines = _replayed((trace,))
    assert (outcome.records, outcome.alerts, outcome.damaged, outcome.remarks) == (6, 5, False, [])
    assert _times(lines) == [f"22:15:0{second}" for second in range(5)]


def test_side_by_side_gives_the_bytes_of_one_after_the_other(tmp_path: Path, rules: RuleSet) -> None:
    sizes = (3000, 1, 400, 0, 7)
    work = [(record(tmp_path / f"{n}.awt", connections(n), rules),) for n in sizes]
    alone = _replayed(*work)
    assert [outcome.alerts for outcome in alone[0]] == list(sizes)
    for jobs in (2, 3, 8):
        assert _replayed(*work, jobs=jobs) == alone


def test_more_recordings_than_may_wait_are_all_told(
    trace: Path, tmp_path: Path, rules: RuleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AHEAD", 3)
    long = record(tmp_path / "long.awt", connections(2000), rules)
    outcomes, _ = _replayed((long,), *[(trace,)] * 7, jobs=2)
    assert [outcome.alerts for outcome in outcomes] == [2000, *[5] * 7]


def test_progress_counts_the_bytes_of_every_recording(trace: Path, segments: list[Path]) -> None:
    read = [0, 0]
    work = [(trace,), tuple(segments)]
    list(replay_all(work, Order(), len, jobs=2, progress=read.__setitem__))
    # The end of a file is read after its last round.
    assert 0 < read[0] <= trace.stat().st_size
    assert 0 < read[1] <= sum(path.stat().st_size for path in segments)


def test_a_worker_that_dies_is_an_error(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(self: object) -> None:
        signal.raise_signal(signal.SIGKILL)

    monkeypatch.setattr(module.Replay, "run", die)
    with pytest.raises(ReplayError, match="-9"):
        _replayed((trace,), (trace,), jobs=2)


def test_what_a_worker_cannot_do_is_said(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Replay, "run", fail)
    with pytest.raises(ReplayError, match="No space left on device"):
        _replayed((trace,), (trace,), jobs=2)


# --- the span ---


@pytest.mark.parametrize(
    ("begin", "end", "seconds"),
    [
        ("2", None, (2, 3, 4)),
        (None, "1.999999999", (0, 1)),
        ("1", "3", (1, 2, 3)),
        ("2023-11-14T22:15:03Z", None, (3, 4)),
        ("2023-11-15T00:15:03+02:00", "4", (3, 4)),
        (None, "2023-11-14 22:15:00.5z", (0,)),
        ("9", None, ()),
    ],
)
def test_a_span_chooses_what_is_told(
    trace: Path, begin: str | None, end: str | None, seconds: tuple[int, ...]
) -> None:
    parse: Callable[[str | None], Moment | None] = lambda text: Moment.parse(text) if text else None  # noqa: E731
    everything = _replayed((trace,))[1].splitlines(keepends=True)
    (outcome,), lines = _replayed((trace,), order=Order(begin=parse(begin), end=parse(end)))
    # What came before the span is folded all the same: the lines are those of a replay of everything.
    assert lines == b"".join(everything[second] for second in seconds)
    assert (outcome.alerts, outcome.records) == (len(seconds), 6)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "yesterday", "2023-11-14T22:15:00", "2023-13-14T22:15:00Z", "2023-11-14T22:15:00+99:00", "1e3",
     "٣", "0001-01-01T00:00:00+23:00", "nan"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Moment.parse(text)


@given(st.text(max_size=40) | st.from_regex(module._MOMENT, fullmatch=True))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        moment = Moment.parse(text)
    except ValueError:
        return
    moment.stamp(header(RuleSet((), "")))


# --- several files ---


def test_files_of_a_recording_are_one_trace(segments: list[Path], trace: Path) -> None:
    expected = _replayed((trace,))
    for named in (segments, segments[:1], segments[::-1], [segments[2], segments[0]]):
        assert recordings(named) == [tuple(segments)]
    assert _replayed(tuple(segments)) == expected


def test_a_later_file_alone_lacks_what_came_before(segments: list[Path]) -> None:
    (work,) = recordings(segments[2:3])
    assert work == (segments[2],)
    (outcome,), _ = _replayed(work)
    assert outcome.damaged and "what came before is not known" in outcome.remarks[0]


def test_a_missing_file_is_said(segments: list[Path]) -> None:
    segments[2].unlink()
    (work,) = recordings(segments[:1])
    (outcome,), lines = _replayed(work)
    assert outcome.damaged and outcome.remarks == [
        f"{segments[3].name}: does not follow the file before it: something is missing between them"
    ]
    assert len(_times(lines)) == 4


def test_files_of_others_beside_it_are_left_alone(trace: Path, segments: list[Path]) -> None:
    trace.rename(segments[0])  # a new recording took the name; the old one's further files are still there
    assert recordings(segments[:1]) == [(segments[0],)]


def test_the_same_file_twice_is_two_recordings(trace: Path) -> None:
    assert recordings([trace, trace, Path("-")]) == [(trace,), (trace,), (Path("-"),)]


# --- rules ---


def test_rules_that_are_missing_are_said_where_others_stand_in(tmp_path: Path, rules: RuleSet) -> None:
    lacks = record(tmp_path / "lacks.awt", connections(1), rules, embed=False)
    (outcome,), _ = _replayed((lacks,))
    assert outcome.damaged and "lacks its rules" in outcome.remarks[0]
    (outcome,), lines = _replayed((lacks,), order=Order(rules))
    assert not outcome.damaged and len(_times(lines)) == 1


def test_rules_that_are_not_the_headers_are_said(tmp_path: Path, rules: RuleSet) -> None:
    path = record(tmp_path / "x.awt", connections(1), rules, changes={"rules_digest": "00" * 32})
    (outcome,), _ = _replayed((path,))
    assert outcome.damaged and "not those that its header names" in outcome.remarks[0]


def test_rules_change_where_the_recording_says_unless_others_are_named(
    tmp_path: Path, rules: RuleSet
) -> None:
    others = rules_for(tmp_path, port=2)
    reload = (int(Type.RULES), BEGAN + SECOND, 1, 0, 0, others.digest, others.to_bytes())
    mixed = [*connections(1), (Batch(BatchKind.NOTES, pack_notes([reload])),)]
    mixed += [*connections(1, first=2), *connections(1, port=2, first=3)]
    path = record(tmp_path / "x.awt", mixed, rules)
    assert _times(_replayed((path,))[1]) == ["22:15:00", "22:15:03"]
    assert _times(_replayed((path,), order=Order(rules))[1]) == ["22:15:00", "22:15:02"]


def _hostile(tmp_path: Path, rules: RuleSet, embedded: bytes) -> Path:
    with TraceWriter(tmp_path / "hostile.awt", header(rules), rules=embedded, overwrite=True) as writer:
        for batches in connections(2):
            writer.append(batches)
    return tmp_path / "hostile.awt"


@pytest.mark.parametrize("embedded", [b"\xc1", b"\x80", b"x" * 100, bytes([0x91]) * 5000])
def test_rules_that_cannot_be_read_are_a_sentence(tmp_path: Path, rules: RuleSet, embedded: bytes) -> None:
    (outcome,), lines = _replayed((_hostile(tmp_path, rules, embedded),))
    assert outcome.damaged and "cannot be read" in outcome.remarks[0] and not lines


def test_rules_that_cannot_be_evaluated_are_a_sentence(tmp_path: Path, rules: RuleSet) -> None:
    plain = msgpack.unpackb(rules.to_bytes())
    deep: object = plain["rules"][0]["conditions"]["network_connection"]
    for _ in range(300):
        deep = ["not", deep]
    plain["rules"][0]["conditions"]["network_connection"] = deep
    (outcome,), lines = _replayed((_hostile(tmp_path, rules, msgpack.packb(plain)),))
    assert outcome.damaged and "name" in outcome.remarks[0] and not lines


def test_records_of_a_big_endian_machine_are_a_sentence(tmp_path: Path, rules: RuleSet) -> None:
    path = record(tmp_path / "big.awt", connections(1), rules, changes={"byte_order": "big"})
    (outcome,), lines = _replayed((path,))
    assert "big-endian" in outcome.remarks[0] and not lines


# --- damage and hostile records ---


def test_a_damaged_trace_goes_on_after_the_damage(tmp_path: Path, rules: RuleSet) -> None:
    path = tmp_path / "damaged.awt"
    with TraceWriter(path, header(rules), rules=rules.to_bytes()) as writer:
        for batches in connections(3):
            writer.append(batches)
            assert writer.flush()
            if batches[0].kind is BatchKind.NOTES:
                start = path.stat().st_size
    data = bytearray(path.read_bytes())
    data[start + 130] ^= 1
    path.write_bytes(data)
    (outcome,), lines = _replayed((path,))
    assert _times(lines) == ["22:15:01", "22:15:02"]
    assert outcome.damaged and "1 frames" in outcome.remarks[0]


def test_records_that_cannot_be_read_are_damage(tmp_path: Path, rules: RuleSet) -> None:
    torn = (Batch(BatchKind.SLOTS, connection(0)[:-1]),)
    path = record(tmp_path / "torn.awt", [*connections(1), torn], rules)
    (outcome,), lines = _replayed((path,))
    assert outcome.damaged and len(_times(lines)) == 1
    assert outcome.remarks == ["1 records or batches cannot be read, and were left out"]


_VALUES = (
    st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.binary(max_size=20)
    | st.lists(st.text(), max_size=3)
)
_NOTES = st.sampled_from([(int(event.number), event.fields) for event in EVENTS if event.ring is Ring.NOTES])


@st.composite
def _note(draw: st.DrawFn) -> tuple[object, ...]:
    """A note with the right number of fields, most of them of the right type."""
    number, fields = draw(_NOTES)
    right = {
        "str": st.text(max_size=9),
        "bytes": st.binary(max_size=20),
        "strs": st.lists(st.text(), max_size=3),
    }
    integers = st.integers(0, 20) | st.integers(-(2**63), 2**64 - 1)
    values = [
        draw(right.get(field.type, integers) if draw(st.integers(0, 9)) else _VALUES) for field in fields
    ]
    return (number, *(draw(integers) for _ in range(4)), *values)


@given(
    st.lists(st.binary(max_size=128).map(lambda data: data.ljust(128, b"\0")), max_size=3),
    st.lists(_note(), max_size=6),
)
@settings(deadline=None, max_examples=50)
def test_no_record_breaks_a_replay(
    tmp_path_factory: pytest.TempPathFactory, slots: list[bytes], notes: list[tuple[object, ...]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.awt"
    rules = rules_for(tmp_path_factory.getbasetemp())
    batches = (Batch(BatchKind.NOTES, msgpack.packb(notes)), Batch(BatchKind.SLOTS, b"".join(slots)))
    path = record(path, [*connections(1), batches, *connections(1, first=2)], rules, overwrite=True)
    (outcome,), lines = _replayed((path,))
    assert len(_times(lines)) >= 1 or outcome.damaged


# --- comparing ---


@pytest.mark.parametrize(
    ("earlier", "now", "expected"),
    [
        (b"a\nb\n", [b"a\n", b"b\n"], None),
        (b"", [], None),
        (b"a\nb\nc\n", [b"a\n", b"x\n", b"y\n"], Difference(2, b"b\n", b"x\n")),
        (b"a\nlonger\n", [b"a\n", b"x\n"], Difference(2, b"longer\n", b"x\n")),
        (b"a\nb", [b"a\n", b"b\n"], Difference(2, b"b", b"b\n")),
        (b"a\n", [b"a\n", b"b\n"], Difference(2, b"", b"b\n")),
        (b"a\nb\n", [b"a\n"], Difference(2, b"b\n", b"")),
    ],
)
def test_the_first_difference_is_found(earlier: bytes, now: list[bytes], expected: Difference | None) -> None:
    comparison = Comparison(io.BytesIO(earlier))
    for line in now:
        comparison.write(line)
    assert comparison.finish() == expected


def test_users_are_named_as_recorded(tmp_path: Path, rules: RuleSet) -> None:
    told = header(rules, extra={"users": {"0": "root", "x": "y", "9" * 5000: "z", "-1": "w"}})
    assert told.users == {0: "root"}
    assert replace(told, extra={"users": 3}).users == {}


def test_a_later_file_tells_what_was_so_at_its_beginning(tmp_path: Path) -> None:
    rules = rules_for(tmp_path)
    path = record(
        tmp_path / "run.awt",
        connections(6),
        rules,
        rotation=Rotation(max_bytes=1),
        snapshots=Past(rules.to_bytes(), rules.digest),
    )
    whole: list[bytes] = []
    alone: list[bytes] = []
    outcome = Replay(recordings([path])[0], Order(), whole.append, lambda done: None).run()
    assert outcome.remarks == [] and outcome.alerts == 6
    last = Replay((segment_path(path, 5),), Order(), alone.append, lambda done: None).run()
    assert "what came before is told in short" in last.remarks[0]
    assert last.alerts == 1
    told = json.loads(alone[0])
    assert told["agent"] == "demo" and told["time"] == json.loads(whole[3])["time"]


def test_an_act_in_a_trace_that_begins_midway_belongs_to_the_decision_that_waits(tmp_path: Path) -> None:
    path = tmp_path / "rule.yml"
    path.write_text(RULE.format(port=1) + "agentwatch:\n  response: pause\n")
    rules = load_rules([path])
    begin = (int(Type.AGENT), BEGAN, 1, 0, 0, "demo", "agentwatch/demo", 1, "enforce")
    (rule,) = rules.rules
    act = (int(Type.ACTION), BEGAN + SECOND, 1, 0, 0, 777, rule.id, "pause", "done", "", BEGAN + 1000, 0)
    rounds = [
        (Batch(BatchKind.NOTES, pack_notes([begin])), Batch(BatchKind.SLOTS, connection(0))),
        (Batch(BatchKind.NOTES, pack_notes([act])),),
    ]
    for name, acted in (("cut", "pause"), ("other", "none")):
        made = record(tmp_path / f"{name}.awt", rounds, rules, changes={"extra": {name: {}}})
        assert _acted((made,)) == acted
    run = record(tmp_path / "run.awt", [connections(1)[0], *rounds], rules, rotation=Rotation(max_bytes=1))
    assert _acted((segment_path(run, 2), segment_path(run, 3))) == "pause"


def _acted(recording: tuple[Path, ...]) -> object:
    lines: list[bytes] = []
    Replay(recording, Order(), lines.append, lambda done: None).run()
    return json.loads(lines[0])["acted"]
