from __future__ import annotations

import socket
from typing import Any

import pytest

from agentwatch.enrich import flows
from agentwatch.enrich.facts import Facts, image_flags, unix_path
from agentwatch.enrich.flows import FlowTable, address_text
from agentwatch.enrich.state import Change, State
from agentwatch.schema import decode
from agentwatch.schema.decode import DecodeError
from agentwatch.schema.events import HOST, Denial, PayloadFlag, Type
from agentwatch.schema.fields import FIELDS
from tests.schema.records import raw

LOCAL: dict[str, Any] = {
    "family": 2,
    "socktype": 1,
    "protocol": 6,
    "local": b"\x7f\0\0\1",
    "local_port": 4000,
}
REMOTE: dict[str, Any] = {"remote": b"\x0a\0\0\2", "remote_port": 3333}


def fold(state: State, *batches: bytes) -> list[Change]:
    changes, seq = [], 0
    for batch in batches:
        decoder = decode.slots if len(batch) % 128 == 0 and batch[0] == 120 else decode.records
        for row in decoder(batch):
            seq += 1
            change = state.apply(seq, row)
            if change is not None:
                changes.append(change)
    return changes


def note(state: State, *fields: object) -> Change | None:
    (row,) = decode.notes(decode.pack_notes([fields]))
    return state.apply(1, row)


def test_flow_is_followed_from_connect_to_close() -> None:
    state = State()
    changes = fold(
        state,
        raw("connect", time=10, cookie=5, family=2, socktype=1, protocol=6, **REMOTE),
        raw("connected", time=20, cookie=5, **LOCAL, **REMOTE, elapsed=10),
        raw("close", time=30, cookie=5, **LOCAL, **REMOTE, bytes_out=3, bytes_in=4),
    )
    flow = changes[-1].flow
    assert flow is not None
    assert (flow.initiated, flow.remote, flow.remote_port, flow.local_port) == (True, "10.0.0.2", 3333, 4000)
    assert (flow.bytes_out, flow.bytes_in, flow.closed) == (3, 4, 30)


def test_failed_connect_keeps_its_error() -> None:
    state = State()
    (change,) = fold(state, raw("connected", cookie=5, error=111, **LOCAL, **REMOTE))
    assert change.flow is not None
    assert change.flow.error == 111


def test_accepted_flow_is_not_initiated() -> None:
    (change,) = fold(State(), raw("accept", cookie=5, **LOCAL, **REMOTE))
    assert change.flow is not None
    assert change.flow.initiated is False


def test_payload_knows_its_direction_and_data() -> None:
    (change,) = fold(
        State(),
        raw(
            "payload",
            flags=int(PayloadFlag.IN),
            cookie=5,
            length=5,
            data=b"hello" + bytes(59),
            **LOCAL,
            **REMOTE,
        ),
    )
    assert change.incoming
    assert change.data == b"hello"


def test_socket_of_before_the_watch_keeps_the_owner_that_was_found() -> None:
    state = State()
    note(
        state,
        int(Type.SOCKET_SEEN),
        1,
        1,
        42,
        9,
        5,
        2,
        1,
        6,
        b"\x7f\0\0\1",
        4000,
        b"\x0a\0\0\2",
        3333,
        "established",
    )
    (change,) = fold(
        state, raw("payload", tgid=0, start=0, cookie=5, length=1, data=b"x" * 64, **LOCAL, **REMOTE)
    )
    assert change.process.key == (42, 9)


@pytest.mark.parametrize(
    ("response", "expected"), [("pause", "paused"), ("kill", "killed"), ("resume", "running")]
)
def test_what_the_actuator_did_is_the_agents_state(response: str, expected: str) -> None:
    state = State()
    note(state, int(Type.ACTION), 1, 1, 0, 0, 7, "rule", response, "done", "", 5, 6)
    assert state.agent(1).state == expected


def test_a_failed_act_changes_nothing() -> None:
    state = State()
    note(state, int(Type.ACTION), 1, 1, 0, 0, 7, "rule", "pause", "failed", "no such file", 0, 0)
    assert state.agent(1).state == "running"


def test_losses_add_up_by_event() -> None:
    state = State()
    for lost in (2, 3):
        note(state, int(Type.LOSS), 1, 1, 0, 0, int(Type.PAYLOAD), lost, "ring full")
    assert state.agent(1).lost == {"payload": 5}


def test_what_the_host_lost_counts_once_for_everybody() -> None:
    state = State()
    note(state, int(Type.LOSS), 1, HOST, 0, 0, int(Type.FORK), 7, "ring full")
    for agent in (HOST, 1):
        assert state.lost(state.agent(agent)) == {"fork": 7}


def test_flows_whose_end_was_lost_do_not_pile_up() -> None:
    table = FlowTable()
    for cookie in range(1, flows.FLOWS_KEPT + 2):
        table.update((cookie, bytes(16), bytes(16), 0, 0, 2, 1, 6, 0), (1, 1), 1, 0)
    assert table.known(1) is None
    assert table.known(2) is not None


@pytest.mark.parametrize(
    ("family", "packed", "text"),
    [
        (socket.AF_INET, b"\x0a\0\0\2", "10.0.0.2"),
        (socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "fd00:ec2::254"), "fd00:ec2::254"),
        (socket.AF_INET6, socket.inet_pton(socket.AF_INET6, "::ffff:169.254.169.254"), "169.254.169.254"),
    ],
)
def test_addresses_are_shown_as_what_they_are(family: int, packed: bytes, text: str) -> None:
    assert address_text(family, packed.ljust(16, b"\0")) == text


def test_facts_give_exactly_the_fields_of_their_category() -> None:
    state = State()
    facts = Facts(state, FIELDS)
    (connect,) = fold(state, raw("connect", cookie=5, family=2, socktype=1, protocol=6, **REMOTE))
    event = facts.of(connect)
    assert event is not None
    assert event.category == "network_connection"
    assert set(event.fields) == {field.name for field in FIELDS["network_connection"][1]}
    assert event.fields["DestinationIp"] == "10.0.0.2"


def test_facts_of_unwanted_categories_are_spared() -> None:
    state = State()
    (connect,) = fold(state, raw("connect", cookie=5, family=2, socktype=1, protocol=6, **REMOTE))
    assert Facts(state, {"process_creation"}).of(connect) is None


def test_tampering_says_what_was_done() -> None:
    state = State()
    facts = Facts(state, {"tampering"})
    path = b"/system.slice"
    moved, by_other, signalled = fold(
        state,
        raw("cgroup_move", tgid=100, mover=100, length=len(path), data=path.ljust(256, b"\0")),
        raw("cgroup_move", tgid=100, mover=5, length=len(path), data=path.ljust(256, b"\0")),
        raw("signal", signal=9, target=1),
    )
    assert facts.of(moved).fields["Cgroup"] == "/system.slice"  # type: ignore[union-attr]
    assert facts.of(moved).fields["ByAgent"] == "true"  # type: ignore[union-attr]
    assert facts.of(by_other).fields["ByAgent"] == "false"  # type: ignore[union-attr]
    assert facts.of(signalled).fields["Signal"] == 9  # type: ignore[union-attr]


def test_a_refusal_says_what_was_refused() -> None:
    state = State()
    facts = Facts(state, {"denial"})
    signal, exec_, unknown = fold(
        state,
        raw("denied", what=Denial.SIGNAL, argument=9, target=7),
        raw("denied", what=Denial.EXEC),
        raw("denied", what=99),
    )
    told = facts.of(signal).fields  # type: ignore[union-attr]
    assert [told[name] for name in ("Kind", "Signal", "TargetProcessId")] == ["signal", 9, 7]
    told = facts.of(exec_).fields  # type: ignore[union-attr]
    assert [told[name] for name in ("Kind", "Signal", "TargetProcessId")] == ["exec", None, None]
    with pytest.raises(DecodeError):
        facts.of(unknown)


def test_a_block_lasts_until_the_agent_is_resumed() -> None:
    state = State()
    for response, after in (("block", "blocked"), ("resume", "running")):
        note(state, int(Type.ACTION), 1, 1, 0, 0, 5, "rule", response, "done", "", 1, 1)
        assert state.agent(1).state == after


@pytest.mark.parametrize(
    ("cgroup", "left"), [("/job/worker", False), ("/job", False), ("/jobs", True), ("/x/job/worker", True)]
)
def test_a_cgroup_below_its_own_is_no_way_out(cgroup: str, left: bool) -> None:
    state = State()
    note(state, int(Type.AGENT), 1, 1, 0, 0, "tester", "job", 5, "enforce")
    data = cgroup.encode()
    (moved,) = fold(state, raw("cgroup_move", length=len(data), data=data.ljust(256, b"\0")))
    assert (Facts(state, {"tampering"}).of(moved) is not None) == left


def test_loader_and_memfd_stand_out() -> None:
    state = State()
    process = state.processes.get(1, 1, 1)
    process.exe, process.flags = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", 3
    assert image_flags(process) == ("memfd", "deleted", "loader")


@pytest.mark.parametrize(
    ("data", "text"), [(b"/run/docker.sock\0\0", "/run/docker.sock"), (b"\0bus\0\0", "@bus"), (b"", "")]
)
def test_unix_addresses(data: bytes, text: str) -> None:
    assert unix_path(data) == text


def test_names_of_addresses_are_bounded() -> None:
    state = State()
    for number in range(5000):
        state.learn_name(str(number), "x")
    assert state.name_of("0") == ""
    assert state.name_of("4999") == "x"


def test_what_was_cut_of_a_parent_is_cut_for_its_children() -> None:
    state = State()
    parent, child = state.processes.get(1, 1, 1), state.processes.get(100, 7, 1)
    parent.truncated, child.parent = frozenset(("CommandLine", "Argv")), parent.key
    (connect,) = fold(state, raw("connect", cookie=5, family=2, socktype=1, protocol=6, **REMOTE))
    event = Facts(state, FIELDS).of(connect)
    assert event is not None
    assert event.truncated == {"ParentCommandLine"}


def test_progress_says_what_a_flow_has_carried() -> None:
    state = State()
    block = {"cookie": 5, "family": 2, "socktype": 1, "protocol": 6, **REMOTE}
    (_, change) = fold(
        state, raw("connect", **block), raw("flow_progress", **block, bytes_out=1 << 40, bytes_in=7)
    )
    assert change.flow is not None
    assert (change.flow.bytes_out, change.flow.bytes_in) == (1 << 40, 7)
