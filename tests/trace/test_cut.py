"""A cut can be verified and replayed, and says where it came from; a merge keeps agents apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.replay import Order, Replay
from agentwatch.rules.model import RuleSet
from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, TGID, TIME, pack_notes
from agentwatch.schema.events import Type
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.cut import Selection, cut
from agentwatch.trace.error import TraceError
from agentwatch.trace.merge import merge
from agentwatch.trace.past import rows_of
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.select import of_agent, select
from agentwatch.trace.verify import verify
from tests.recordings import BEGAN, SECOND, connection, record, rules_for
from tests.schema.records import raw


def note(type: Type, *fields: Any, time: int = BEGAN, agent: int = 1, pid: int = 0) -> Round:
    row = (int(type), time, agent, pid, pid * 10, *fields)
    return (Batch(BatchKind.NOTES, pack_notes([row])),)


def fork(child: int, parent: int, time: int, agent: int = 1) -> Round:
    data = raw("fork", tgid=child, start=child * 10, parent=parent, parent_start=parent * 10, time=time,
               agent=agent)  # fmt: skip
    return (Batch(BatchKind.SLOTS, data),)


def connect(pid: int, time: int, agent: int = 1) -> Round:
    data = raw("connect", time=time, tgid=pid, start=pid * 10, agent=agent, cookie=pid, socktype=1,
               remote=b"\x7f\0\0\1".ljust(16, b"\0"), remote_port=1, family=2, protocol=6)  # fmt: skip
    return (Batch(BatchKind.SLOTS, data),)


def shell(pid: int, parent: int = 0, agent: int = 1) -> Round:
    fields = (parent, parent * 10, f"/bin/{pid}", (f"p{pid}",), "/", 0, 0, 0, 0, 0)
    return note(Type.PROCESS, *fields, agent=agent, pid=pid)


def story() -> list[Round]:
    """Two agents; 10 has the children 20 and 30, 20 the child 21; each connects, a second apart."""
    made = [
        note(Type.AGENT, "one", "agentwatch/one", 5, "monitor"),
        note(Type.AGENT, "two", "agentwatch/two", 6, "monitor", agent=2),
        shell(10),
        shell(50, agent=2),
        note(Type.MARKER, "run", "7", "file"),
        fork(20, 10, BEGAN + 1),
        fork(30, 10, BEGAN + 2),
        fork(21, 20, BEGAN + 3),
    ]
    for second, (pid, agent) in enumerate(((20, 1), (50, 2), (30, 1), (21, 1)), 1):
        made.append(connect(pid, BEGAN + second * SECOND, agent))
    return made


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return record(tmp_path / "run.awt", story(), rules_for(tmp_path), changes={"host": "here"})


def replayed(path: Path) -> list[dict[str, Any]]:
    lines: list[bytes] = []
    outcome = Replay((path,), Order(), lines.append, lambda done: None).run()
    assert outcome.remarks == []
    return [json.loads(line) for line in lines]


def pids(path: Path) -> list[int]:
    return [alert["process"]["pid"] for alert in replayed(path)]


def cut_of(trace: Path, name: str = "cut.awt", **selection: Any) -> Path:
    done = cut([trace], Selection(**selection), trace.with_name(name))
    assert done.damage == []
    report = verify(trace.with_name(name))
    assert report.whole and report.closed
    return trace.with_name(name)


def test_an_agent_alone(trace: Path) -> None:
    found = cut_of(trace, agent="one")
    assert pids(found) == [20, 30, 21]
    with TraceReader(found) as reader:
        assert {row[AGENT] for batches in reader for row in rows_of(batches)} == {1}


def test_a_process_with_all_below_and_who_is_above(trace: Path) -> None:
    found = cut_of(trace, pid=20)
    alerts = replayed(found)
    assert [alert["process"]["pid"] for alert in alerts] == [20, 21]
    assert [one["pid"] for one in alerts[1]["process"]["ancestors"]] == [20, 10]
    with TraceReader(found) as reader:
        assert {row[TGID] for batches in reader for row in rows_of(batches)} == {0, 10, 20, 21}


def test_a_span_begins_with_what_was_so(trace: Path) -> None:
    whole = replayed(trace)
    found = cut_of(trace, begin=BEGAN + 3 * SECOND, end=BEGAN + 4 * SECOND)
    alerts = replayed(found)
    for one, other in zip(alerts, whole[2:], strict=True):
        assert {**one, "evidence": 0} == {**other, "evidence": 0}
    assert alerts[0]["markers"] == {"run": "7"}
    with TraceReader(found) as reader:
        assert min(row[TIME] for batches in reader for row in rows_of(batches)) < BEGAN + 3 * SECOND


def test_it_names_the_frames_that_it_came_from(trace: Path) -> None:
    with TraceReader(trace) as reader:
        digests = [frame.digest for frame in reader.frames() if frame.body.records]
        mark = reader.mark
    with TraceReader(cut_of(trace, agent="two")) as reader:
        told = reader.header.extra["cut"]
    assert told["selection"] == {"agent": "two"}
    assert told["from"] == [{"file": "run.awt", "mark": mark, "segment": 0, "frames": digests}]


def test_a_cut_of_a_damaged_trace_says_so(trace: Path) -> None:
    data = trace.read_bytes()
    trace.write_bytes(data[: len(data) - 40])
    done = cut([trace], Selection(agent="one"), trace.with_name("cut.awt"))
    assert done.damage
    with TraceReader(trace.with_name("cut.awt")) as reader:
        assert b"cut from a damaged trace" in b"".join(batch.data for one in reader for batch in one)


def test_what_is_not_there_makes_no_trace(trace: Path) -> None:
    for selection in (Selection(agent="nobody", begin=1 << 62), Selection(pid=77)):
        with pytest.raises(TraceError):
            cut([trace], selection, trace.with_name("cut.awt"))
        assert not trace.with_name("cut.awt").exists()
    with pytest.raises(TraceError, match="exists"):
        cut([trace], Selection(), trace)


@given(st.binary(max_size=300), st.sampled_from(list(BatchKind)))
@settings(max_examples=200)
def test_any_bytes_are_selected_from_or_left_out(data: bytes, kind: BatchKind) -> None:
    for batch in select((Batch(kind, data),), of_agent(1)):
        assert batch.kind is kind and batch.data
    rows_of((Batch(kind, data),))


# --- merging ---


def rules_of(folder: Path) -> RuleSet:
    return rules_for(folder)


def part(folder: Path, name: str, cgroup: int, second: int, **changes: Any) -> Path:
    rounds = [note(Type.AGENT, name, f"agentwatch/{name}", cgroup, "monitor", time=BEGAN + second * SECOND)]
    rounds += [(Batch(BatchKind.SLOTS, connection(second + n)),) for n in (0, 2, 4)]
    return record(
        folder / f"{name}.awt",
        rounds,
        rules_of(folder),
        changes={"boot_id": "b", "agents": (name,), **changes},
    )


def test_agents_of_several_traces_stay_apart_in_one(tmp_path: Path) -> None:
    one, two = part(tmp_path, "one", 5, 0), part(tmp_path, "two", 6, 1)
    done = merge([two, one], tmp_path / "both.awt")
    assert done.rules and not done.damage
    assert verify(tmp_path / "both.awt").whole
    alerts = replayed(tmp_path / "both.awt")
    assert [alert["agent"] for alert in alerts] == ["one", "two"] * 3
    with TraceReader(tmp_path / "both.awt") as reader:
        assert reader.header.agents == ("one", "two")
        notes = [row for batches in reader for row in rows_of(batches)]
    assert sorted({row[AGENT] for row in notes}) == [1, 2]
    assert all(decode.unpack(row) for row in notes)


def test_hosts_and_doubles_are_refused(tmp_path: Path) -> None:
    one, two = part(tmp_path, "one", 5, 0), part(tmp_path, "two", 6, 1, boot_id="c", host="there")
    with pytest.raises(TraceError, match=r"several boots.*: one.awt; there: two.awt"):
        merge([one, two], tmp_path / "both.awt")
    again = part(tmp_path, "again", 5, 1)
    with pytest.raises(TraceError, match="same agent at the same time"):
        merge([one, again], tmp_path / "both.awt")
    assert not (tmp_path / "both.awt").exists()
