"""The queue of a sink: what is slow, full, hanging or dead concerns itself alone."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from agentwatch.sinks import outlet as under_test
from agentwatch.sinks.outlet import BATCH, Item, Outlet, Refused
from tests.sinks.samples import item, run, until


class Destination:
    """Does as it is told; keeps what it got."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.trouble: BaseException | None = None
        self.hangs = False
        self.reopened = 0
        self.closed = False

    async def deliver(self, batch: deque[Item]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        while batch:
            if self.trouble is not None:
                raise self.trouble
            self.got.append(batch[0].alert["evidence"][0])
            batch.popleft()

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        self.closed = True


pytestmark = pytest.mark.usefixtures("impatient")


def test_alerts_come_in_order_and_are_counted() -> None:
    async def scenario() -> None:
        to = Destination()
        outlet = Outlet("x", to, print)
        for number in range(250):
            outlet.put(item(number))
        await until(lambda: len(to.got) == 250)
        assert to.got == list(range(250))
        await outlet.close(1)
        assert outlet.status() == {"sent": 250, "dropped": 0, "queued": 0, "error": ""}
        assert to.closed

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_what_has_no_room_is_dropped_and_the_first_stay() -> None:
    async def scenario() -> None:
        to = Destination()
        to.hangs = True
        outlet = Outlet("x", to, print, queue=200)
        for number in range(1000):
            outlet.put(item(number))
        assert outlet.status()["dropped"] == 800
        to.hangs = False
        await until(lambda: to.got)
        await outlet.close(5)
        assert to.got == list(range(200))

    run(scenario)


def test_the_queue_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "QUEUE_BYTES", 10_000)

    async def scenario() -> None:
        outlet = Outlet("x", Destination(), print)
        for number in range(5):
            outlet.put(item(number, cmdline="x" * 4000))
        assert outlet.status()["queued"] == 2
        assert outlet.status()["dropped"] == 3
        await outlet.close(1)

    run(scenario)


def test_a_failure_is_said_once_and_so_is_its_end() -> None:
    async def scenario() -> None:
        to, said = Destination(), list[str]()
        to.trouble = ConnectionRefusedError(111, "Connection refused")
        outlet = Outlet("x", to, said.append)
        outlet.put(item(1))
        await until(lambda: outlet.status()["error"])
        await asyncio.sleep(0.1)  # several attempts
        assert len(said) == 1 and "sink x: Connection refused" in said[0]
        assert outlet.status() == {"sent": 0, "dropped": 0, "queued": 1, "error": "Connection refused"}
        to.trouble = None
        await until(lambda: to.got == [1])
        await outlet.close(1)
        assert len(said) == 2 and "works again" in said[1]
        assert outlet.status()["error"] == ""

    run(scenario)


@pytest.mark.usefixtures("hasty")
def test_one_that_hangs_is_given_up_and_tried_again() -> None:
    async def scenario() -> None:
        to, well = Destination(), Destination()
        to.hangs = True
        outlet, other = Outlet("x", to, print), Outlet("y", well, print)
        for one in (outlet, other):
            one.put(item(1))
        await until(lambda: well.got == [1])
        await until(lambda: outlet.status()["error"] == "no answer in time")
        to.hangs = False
        await until(lambda: to.got == [1])
        for one in (outlet, other):
            await one.close(1)

    run(scenario)


@pytest.mark.parametrize("trouble", [Refused("refused with 400"), ValueError("what is this")])
def test_what_will_never_be_taken_is_dropped_and_the_rest_goes_on(trouble: Exception) -> None:
    async def scenario() -> None:
        to = Destination()
        to.trouble = trouble
        outlet = Outlet("x", to, print)
        outlet.put(item(1))
        await until(lambda: outlet.status()["dropped"] == 1)
        assert str(trouble) in outlet.status()["error"]
        to.trouble = None
        outlet.put(item(2))
        await until(lambda: to.got == [2])
        await outlet.close(1)

    run(scenario)


def test_levels_below_are_left_out() -> None:
    async def scenario() -> None:
        to = Destination()
        outlet = Outlet("x", to, print, "high")
        for number, level in enumerate(("informational", "low", "medium", "high", "critical")):
            outlet.put(item(number, level=level))
        await until(lambda: to.got == [3, 4])
        await outlet.close(1)
        assert outlet.status()["dropped"] == 0

    run(scenario)


def test_the_end_does_not_wait_for_one_that_hangs() -> None:
    async def scenario() -> None:
        to = Destination()
        to.hangs = True
        outlet = Outlet("x", to, print)
        for number in range(BATCH * 2):
            outlet.put(item(number))
        await outlet.close(0.05)
        assert to.closed
        assert outlet.status()["sent"] == 0

    run(scenario)
