"""A recorder that is killed: what it had written stands, the watch goes on, and what is missing is said."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentwatch.clock import now
from agentwatch.replay import Order, Replay
from agentwatch.schema.decode import BODY, TYPE
from agentwatch.schema.events import Type
from agentwatch.trace.error import TraceError
from agentwatch.trace.past import rows_of
from agentwatch.trace.reader import Damage, DamageKind, TraceReader
from agentwatch.trace.verify import verify
from tests.daemon.service import MINER, WAITS, Service, service
from tests.lab import Cgroup, eventually, needs_root

LATE_NS = 200_000_000
TRIES = 3  # another process may hold up a recorder for once
MARKS = """
import os, time
number = 0
while True:
    number += 1
    os.waitpid(os.posix_spawn("/bin/true", ["true", f"mark{number};"], {}), 0)
    print(number, time.clock_gettime_ns(time.CLOCK_BOOTTIME), flush=True)
    time.sleep(0.005)
"""


@dataclass
class Marks:
    """An agent that starts a program for each number, and tells when it has."""

    told: Path

    def at(self, number: int) -> int:
        """When this one was made, ns since boot."""
        line: str = eventually(lambda: self.told.read_text().splitlines()[number - 1 : number])[0]
        return int(line.split()[1])


@contextmanager
def marks(folder: Path, daemon: Service) -> Iterator[Marks]:
    with Cgroup("marks") as cgroup, (folder / "marks").open("wb") as told:
        agent = cgroup.popen([sys.executable, "-c", MARKS], stdout=told)
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="marks")
        try:
            yield Marks(folder / "marks")
        finally:
            agent.kill()
            agent.wait()


def traces(daemon: Service) -> list[Path]:
    return sorted((daemon.folder / "state" / "traces").glob("*.trace"))


def recorded(path: Path) -> list[int]:
    """The marks in a trace; none in one that is only about to begin."""
    data = b""
    with suppress(TraceError), TraceReader(path) as reader:
        data = b"".join(batch.data for one in reader for batch in one)
    return sorted({int(number) for number in re.findall(rb"mark(\d+);", data)})


def children(daemon: Service) -> dict[str, int]:
    """The daemon's processes by the last part of their modules' names, its own as `core`."""
    pid = daemon.process.pid
    found = {"core": pid}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_text()
        if name := re.search(r"agentwatch\.daemon\.(\w+)", command):
            found[name[1]] = int(child)
    return found


def killed(daemon: Service, which: set[str]) -> tuple[Path, int]:
    """Kill these processes in the midst of a recording: its trace, and when."""
    path = eventually(lambda: traces(daemon))[-1]
    eventually(lambda: recorded(path))
    time = now()
    for name, pid in children(daemon).items():
        if not which or name in which:
            os.kill(pid, signal.SIGKILL)
    return path, time


def all_up_to(path: Path) -> int:
    """The last mark in a trace that holds all from its first one."""
    found = recorded(path)
    assert found == list(range(found[0], found[-1] + 1))
    return found[-1]


def began_again(daemon: Service, before: list[Path]) -> Path:
    """The trace that follows, with something in it."""
    (path,) = eventually(lambda: [one for one in traces(daemon) if one not in before], 20)
    eventually(lambda: recorded(path))
    return path


def broken_off(path: Path) -> list[Damage]:
    """All that is wrong with a trace whose recorder was killed."""
    report = verify(path)
    assert not report.closed and report.rounds and report.bad_signatures == 0
    assert {damage.kind for damage in report.damage} <= {DamageKind.TORN, DamageKind.UNFINISHED}
    return report.damage


def not_closed(daemon: Service, path: Path) -> bool:
    """Whether the daemon has said that this trace has no end."""
    return f"{path} was not closed: nothing after " in daemon.said()


def lost(path: Path) -> int:
    """How many records a trace says are missing from it or before it."""
    with TraceReader(path) as reader:
        bodies = [row[BODY] for one in reader for row in rows_of(one) if row[TYPE] == Type.LOSS]
    return sum(records for _, records, _ in bodies)


def alerts(path: Path) -> list[dict[str, Any]]:
    """Those of the miner that a replay tells."""
    lines: list[bytes] = []
    Replay((path,), Order(), lines.append, lambda done: None).run()
    return [one for one in map(json.loads, lines) if one["agent"] == "miner" and one["acted"] == "pause"]


@needs_root
def test_a_killed_recorder_loses_what_is_younger_than_200_ms_and_the_watch_goes_on(tmp_path: Path) -> None:
    with (
        service(tmp_path, "--record") as daemon,
        marks(tmp_path, daemon) as made,
        socket.create_server(("127.0.0.1", 0)) as pool,
        Cgroup("miner") as cgroup,
    ):
        command = [*WAITS, sys.executable, "-c", MINER, str(pool.getsockname()[1])]
        miner = cgroup.popen(command, stdin=subprocess.PIPE)
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="miner")
        path, time = killed(daemon, {"recorder"})
        paths = [path]
        eventually(lambda: "the recorder ended and is started again" in daemon.said())
        paths.append(began_again(daemon, paths))  # what happens before is lost, and counted
        assert miner.stdin is not None
        miner.stdin.write(b"\n")
        miner.stdin.flush()
        eventually(lambda: any(one["acted"] == "pause" for one in daemon.ask("alerts")["alerts"]))
        assert cgroup.frozen()
        for left in reversed(range(TRIES)):
            broken_off(path)
            last = all_up_to(path)
            eventually(lambda path=path: not_closed(daemon, path))  # type: ignore[misc]
            missing = recorded(paths[-1])[0] - last - 1
            eventually(lambda missing=missing: lost(paths[-1]) >= missing)  # type: ignore[misc]
            if made.at(last + 1) >= time - LATE_NS:
                break
            assert left, "more than the last 200 ms is missing"
            path, time = killed(daemon, {"recorder"})
            paths.append(began_again(daemon, paths))
        live = [one for one in daemon.ask("alerts", agent="miner")["alerts"] if one["acted"] == "pause"]
        daemon.ask("kill", agent="miner")
        miner.communicate()
        assert daemon.stop() == 0
    report = verify(paths[-1])
    assert report.damage == []
    assert report.header.extra["after"]["file"] == path.name
    for name in ("time", "acted", "rule", "process", "flow", "latency_us"):
        assert [one[name] for one in alerts(paths[1])] == [one[name] for one in live], name


@needs_root
@pytest.mark.parametrize("which", [set(), {"core"}], ids=["all of it", "the core"])
def test_a_killed_daemon_loses_what_is_younger_than_200_ms_and_the_next_records_on(
    tmp_path: Path, which: set[str]
) -> None:
    with service(tmp_path, "--record") as daemon, marks(tmp_path, daemon) as made:
        for left in reversed(range(TRIES)):
            path, time = killed(daemon, which)
            before = traces(daemon)
            daemon.kill()
            daemon.start()
            following, last = began_again(daemon, before), all_up_to(path)
            if which:  # the recorder outlives its core, and writes the end
                assert eventually(lambda path=path: verify(path).closed)  # type: ignore[misc]
                assert verify(path).whole
            else:
                broken_off(path)
                eventually(lambda path=path: not_closed(daemon, path))  # type: ignore[misc]
            assert recorded(following)[0] > last
            with TraceReader(following) as reader:
                assert reader.header.extra.get("after", {}).get("file") == (None if which else path.name)
            if made.at(last + 1) >= time - LATE_NS:
                break
            assert left, "more than the last 200 ms is missing"
        assert daemon.agent("marks")["state"] == "running"
        assert daemon.stop() == 0
    assert verify(traces(daemon)[-1]).damage == []


@needs_root
def test_a_daemon_whose_recorder_is_gone_stops_all_the_same(tmp_path: Path) -> None:
    """What cannot be recorded is counted, and the records that tell the count cannot be recorded either."""
    with service(tmp_path, "--record") as daemon, marks(tmp_path, daemon):
        for _ in range(2):  # the second within the second before the next start
            first = eventually(lambda: children(daemon).get("recorder", 0))
            os.kill(first, signal.SIGKILL)
            eventually(lambda first=first: children(daemon).get("recorder", 0) != first)  # type: ignore[misc]
        noticed = re.compile("the recorder (ended and is started again|cannot be started)")
        eventually(lambda: len(noticed.findall(daemon.said())) == 2)
        assert daemon.stop() == 0
