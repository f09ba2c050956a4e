"""Connects at even intervals, and those of people, retries and clusters."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect import beacons
from agentwatch.schema.events import Type
from tests.detect.test_chain import CLIENT, Fold
from tests.schema.records import raw

SECOND = 1_000_000_000
OUTSIDE = b"\xc6\x33\x64\x01"


def connects(intervals: list[float], remote: bytes = OUTSIDE) -> list[dict[str, Any]]:
    fold, time, found = Fold(wanted=("network_behaviour",)), 0, []
    for cookie, seconds in enumerate(intervals):
        time += int(seconds * SECOND)
        found += fold(raw("connect", time=time, **(CLIENT | {"remote": remote, "cookie": cookie})))
    return [dict(event.fields) for event in found if event.fields.get("Kind") == "beacon"]


def test_an_implant_with_jitter() -> None:
    dice = random.Random(1)
    (event,) = connects([60 * dice.uniform(0.7, 1.3) for _ in range(13)])
    assert 50 < event["Interval"] < 70
    assert event["Jitter"] <= beacons.SCATTER
    assert event["DestinationIp"] == "198.51.100.1"


def test_the_next_agent_of_a_number_begins_anew() -> None:
    fold = Fold(wanted=("network_behaviour",))
    for cookie in range(12):
        fold(raw("connect", time=cookie * 60 * SECOND, **(CLIENT | {"remote": OUTSIDE, "cookie": cookie})))
    fold.note(int(Type.AGENT), 1, 1, 0, 0, "next", "agentwatch/next", 7, "monitor")
    assert not fold(raw("connect", time=720 * SECOND, **(CLIENT | {"remote": OUTSIDE, "cookie": 12})))


def test_people_come_in_bursts() -> None:
    dice = random.Random(1)
    assert connects([dice.expovariate(1 / 30) for _ in range(200)]) == []


def test_retries_are_no_beat() -> None:
    assert connects([1.0] * 100) == []


def test_the_cluster_may_beat() -> None:
    assert connects([30.0] * 100, remote=b"\x0a\0\0\x09") == []


@given(st.lists(st.integers(-(2**63), 2**63), min_size=2, max_size=20))
def test_any_times(times: list[int]) -> None:
    beacons.beat(times)


def test_places_are_bounded() -> None:
    fold = Fold(wanted=("network_behaviour",))
    for port in range(beacons.PLACES_KEPT + 20):
        fold(raw("connect", **(CLIENT | {"remote": OUTSIDE, "remote_port": port, "cookie": port})))
    (detector,) = [
        one
        for of in fold.chain._by_type[7]
        if isinstance(one := getattr(of, "__self__", None), beacons.Beacons)
    ]
    assert len(detector._places) == beacons.PLACES_KEPT
