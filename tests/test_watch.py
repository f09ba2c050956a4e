"""Several agents under one set of probes: each event is told of the agent that did it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agentwatch.kernel.cgroup import Cgroup, create
from agentwatch.respond.cgroup import kill
from agentwatch.schema import decode
from agentwatch.schema.decode import AGENT, TYPE
from agentwatch.schema.events import Type
from agentwatch.sources.base import BatchKind
from agentwatch.watch import Options, TooMany, Watch

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def first() -> Iterator[Cgroup]:
    with agent("one") as made:
        yield made


@pytest.fixture
def second() -> Iterator[Cgroup]:
    with agent("two") as made:
        yield made


@contextmanager
def agent(name: str) -> Iterator[Cgroup]:
    with create(f"test-watch-{name}-{os.getpid()}") as made:
        yield made
        kill(made)


def started(cgroup: Cgroup) -> subprocess.Popen[bytes]:
    """A shell that runs `true` for each line that it is given, and says so."""
    process = subprocess.Popen(
        ["sh", "-c", "echo done; while read -r _; do /bin/true; echo done; done"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    await_done(process)  # `Popen` returns before the kernel tells of the shell's own execve
    cgroup.move(process.pid)
    return process


def await_done(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"


def order(process: subprocess.Popen[bytes]) -> None:
    """Have it run once, and wait until it has."""
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    await_done(process)


def execs(watch: Watch, until: Callable[[list[int]], bool]) -> list[int]:
    """The agents that executed something, in order, until that is as wanted."""
    agents: list[int] = []
    while not until(agents):
        for batch in watch.source.poll(0.05):
            if batch.kind is BatchKind.RECORDS:
                agents += [row[AGENT] for row in decode.records(batch.data) if row[TYPE] == Type.EXEC]
    return agents


def test_each_agent_has_its_own_number(first: Cgroup, second: Cgroup) -> None:
    with Watch() as watch, started(first) as one, started(second) as two:
        number = watch.add(Options("one", "monitor", running=True), first)
        other = watch.add(Options("two", "monitor", running=True), second)
        assert (number, other) == (1, 2)
        order(two)
        assert execs(watch, lambda found: len(found) == 1) == [2]
        order(one)
        assert execs(watch, lambda found: len(found) == 1) == [1]
        one.kill()
        two.kill()


def test_an_agent_that_is_watched_no_more_says_nothing_and_its_number_waits(
    first: Cgroup, second: Cgroup
) -> None:
    with Watch() as watch, started(first) as one, started(second) as two:
        watch.add(Options("one", "monitor", running=True), first)
        watch.remove(1)
        assert watch.add(Options("two", "monitor", running=True), second) == 2
        order(one)
        order(two)
        assert execs(watch, bool) == [2]
        assert watch.add(Options("one", "monitor", running=True), first) == 3
        order(one)
        assert execs(watch, bool) == [3]
        one.kill()
        two.kill()


def test_there_is_an_end_to_the_numbers(
    first: Cgroup, second: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentwatch.watch.MAX_AGENTS", 2)
    with Watch() as watch:
        watch.add(Options("one", "monitor"), first)
        with pytest.raises(TooMany, match="1 agents"):
            watch.add(Options("two", "monitor"), second)
        watch.remove(1)
        assert watch.add(Options("two", "monitor"), second) == 1
