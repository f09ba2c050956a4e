"""Volumes by destination, and over records of flows that are still open."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import exfiltration
from agentwatch.detect.exfiltration import Volumes
from agentwatch.schema.events import Type
from tests.detect.test_chain import CLIENT, Fold
from tests.schema.records import raw

MEGABYTE = 1_000_000


def test_steps_of_magnitude_are_told_once() -> None:
    volumes, told = Volumes(), []
    for megabytes in (1, 9, 11, 50, 120, 800, 1200, 20_000):
        facts = volumes.flow(1, 1, "198.51.100.1", megabytes * MEGABYTE, 1000, ended=False)
        told.append(facts and facts["Magnitude"])
    assert told == [None, None, "small", None, "medium", None, "large", "huge"]


def test_flows_of_one_destination_add_up() -> None:
    volumes = Volumes()
    for cookie in range(4):
        assert volumes.flow(cookie, 1, "198.51.100.1", 2 * MEGABYTE, 0, ended=True) is None
    facts = volumes.flow(9, 1, "198.51.100.1", 2 * MEGABYTE, 0, ended=True)
    assert facts is not None
    assert (facts["BytesOut"], facts["BytesIn"], facts["Ratio"]) == (10 * MEGABYTE, 0, 10.0 * MEGABYTE)


def test_progress_and_end_of_a_flow_count_once() -> None:
    volumes = Volumes()
    for sent, ended in ((4, False), (8, False), (9, True)):
        assert volumes.flow(1, 1, "198.51.100.1", sent * MEGABYTE, 0, ended=ended) is None


def test_agents_and_destinations_are_counted_apart() -> None:
    volumes = Volumes()
    for agent, destination in ((1, "a"), (2, "a"), (1, "b")):
        assert volumes.flow(agent, agent, destination, 6 * MEGABYTE, 0, ended=True) is None


def test_downloads_are_none() -> None:
    volumes = Volumes()
    assert volumes.flow(1, 1, "198.51.100.1", 40 * MEGABYTE, 20_000 * MEGABYTE, ended=True) is None


def _flow(remote: bytes, *records: tuple[str, int], **more: Any) -> list[dict[str, Any]]:
    fold, found = Fold(wanted=("network_behaviour",)), []
    where = CLIENT | {"remote": remote, "remote_port": 443} | more
    found += fold(raw("connect", **where))
    for name, sent in records:
        found += fold(raw(name, **where, bytes_out=sent, bytes_in=10))
    return [dict(event.fields) for event in found]


def test_a_flow_is_told_while_it_runs() -> None:
    (event,) = _flow(b"\xc6\x33\x64\x01", ("flow_progress", 12 * MEGABYTE), ("close", 13 * MEGABYTE))
    assert (event["Kind"], event["Magnitude"]) == ("exfiltration", "small")
    assert (event["DestinationIp"], event["Initiated"], event["Protocol"]) == ("198.51.100.1", "true", "tcp")


def test_the_next_agent_of_a_number_has_sent_nothing() -> None:
    fold, where = Fold(wanted=("network_behaviour",)), CLIENT | {"remote": b"\xc6\x33\x64\x01"}
    fold(raw("connect", **where), raw("close", **where, bytes_out=6 * MEGABYTE))
    fold.note(int(Type.AGENT), 1, 1, 0, 0, "next", "agentwatch/next", 7, "monitor")
    more = where | {"cookie": 6}
    assert not fold(raw("connect", **more), raw("close", **more, bytes_out=6 * MEGABYTE))


def test_what_stays_in_the_cluster_is_no_business_of_ours() -> None:
    assert _flow(b"\x0a\0\0\x09", ("close", 5000 * MEGABYTE)) == []
    assert _flow(b"\x7f\0\0\x01", ("close", 5000 * MEGABYTE)) == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(1, 2), st.sampled_from("ab"), st.integers(0, 10**11),
            st.integers(0, 10**11), st.booleans(),
        )
    )
)  # fmt: skip
def test_magnitudes_only_grow(flows: list[tuple[int, int, str, int, int, bool]]) -> None:
    volumes = Volumes()
    last: dict[tuple[int, str], int] = {}
    for cookie, agent, destination, sent, received, ended in flows:
        facts = volumes.flow(cookie, agent, destination, sent, received, ended=ended)
        if facts is not None:
            assert isinstance(facts["BytesOut"], int)
            assert facts["BytesOut"] > last.get((agent, destination), 0)
            last[agent, destination] = facts["BytesOut"]


def test_tables_are_bounded() -> None:
    volumes = Volumes()
    for number in range(exfiltration.FLOWS_KEPT + 50):
        volumes.flow(number, 1, str(number), 1, 1, ended=False)
    assert len(volumes._flows) == exfiltration.FLOWS_KEPT
    assert len(volumes._destinations) == exfiltration.DESTINATIONS_KEPT
