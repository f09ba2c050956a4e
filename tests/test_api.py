"""The Python API, against a real daemon and without one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.api import NotWatched, watch
from agentwatch.control.protocol import ProtocolError
from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service(tmp_path) as made:
        monkeypatch.setenv("AGENTWATCH_SOCKET", str(made.socket))
        yield made


@pytest.mark.root
@needs_root
def test_what_a_block_starts_is_an_agent_of_its_own(daemon: Service) -> None:
    with watch("episode", run=3) as agent:
        assert agent.name == "episode"
        child = subprocess.Popen(["sleep", "600"], **agent.popen())
        cgroup = Path(f"/proc/{child.pid}/cgroup").read_text()
        assert "/agentwatch/episode\n" in cgroup
        assert "/agentwatch/" not in Path("/proc/self/cgroup").read_text()
        rows = eventually(lambda: daemon.ask("ps", agent="episode")["processes"])
        assert [(row["pid"], row["argv"], row["markers"]) for row in rows] == [
            (child.pid, ["sleep", "600"], {"run": "3"})
        ]
        agent.mark(tool="sleep")
        eventually(
            lambda: (
                daemon.ask("ps", agent="episode")["processes"][0]["markers"] == {"run": "3", "tool": "sleep"}
            )
        )
        with watch("episode") as other:
            assert other.name == "episode-2"
    assert child.wait(10) == -9
    eventually(lambda: daemon.ask("agents") == [])


@pytest.mark.root
@needs_root
def test_a_paused_agent_outlives_its_block(daemon: Service) -> None:
    with watch("episode") as agent:
        child = subprocess.Popen(["sleep", "600"], **agent.popen())
        daemon.ask("pause", agent="episode")
    assert child.poll() is None
    assert daemon.agent("episode")["state"] == "paused"
    daemon.ask("kill", agent="episode")
    assert child.wait(10) == -9


@pytest.mark.root
@needs_root
def test_an_agent_ends_with_the_process_that_began_it(daemon: Service) -> None:
    program = (
        "import agentwatch, os, sys\n"
        "with agentwatch.watch('orphan') as agent:\n"
        "    agent.run([sys.executable, '-c', 'print(1)'], check=True)\n"
        "    os._exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"1\n"), done.stderr
    eventually(lambda: daemon.ask("agents") == [])


@pytest.mark.root
@needs_root
def test_only_what_was_begun_is_entered_and_ended(daemon: Service) -> None:
    with pytest.raises(NotWatched, match="a name has letters"), watch("../x", required=True):
        pass
    with pytest.raises(NotWatched, match="names no marker"), watch("x", required=True, **{"\n": 1}):
        pass
    eventually(lambda: daemon.ask("agents") == [])
    with Cgroup("attached") as cgroup:
        child = cgroup.popen(["sleep", "600"])
        eventually(cgroup.pids)
        daemon.attach(cgroup, name="attached")
        for verb in ("enter", "end"):
            with pytest.raises(ProtocolError, match="begun"):
                daemon.ask(verb, agent="attached")
        assert child.poll() is None
    child.wait()


def test_without_a_daemon_all_goes_on_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTWATCH_SOCKET", str(tmp_path / "none.sock"))
    with pytest.warns(RuntimeWarning, match="no daemon answers"), watch("episode", run=1) as agent:
        assert agent.name == ""
        assert agent.run(["echo", "hello"], capture_output=True).stdout == b"hello\n"
        agent.mark(tool="x")
    with pytest.raises(NotWatched), watch("episode", required=True):
        pass


def test_the_package_gives_it_and_loads_nothing_else() -> None:
    program = "import sys, agentwatch; print('agentwatch.api' in sys.modules, agentwatch.watch.__module__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "agentwatch.api"]
