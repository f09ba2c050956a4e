"""`agentwatch top` in a real terminal, over a real daemon that watches a real agent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.service import Service, service
from tests.daemon.test_core import MINER
from tests.lab import Cgroup, eventually
from tests.tui.top.material import trace
from tests.tui.top.terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
SIZES = [(80, 24), (200, 60)]
# Waits for a word, then is a miner until it is killed, then begins again when it is resumed.
WAIT = ["sh", "-c", 'read -r _; exec "$@"', "sh", sys.executable, "-c", MINER]


class Miner:
    """An agent that mines once it is told to."""

    def __init__(self, cgroup: Cgroup, process: subprocess.Popen[bytes]) -> None:
        self.cgroup, self._process = cgroup, process

    def mine(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()


@contextmanager
def miner(daemon: Service) -> Iterator[Miner]:
    with socket.create_server(("127.0.0.1", 0)) as pool, Cgroup("top") as cgroup:
        command = [*WAIT, str(pool.getsockname()[1])]
        with cgroup.popen(command, stdin=subprocess.PIPE) as process:
            try:
                eventually(cgroup.pids)
                daemon.attach(cgroup, name="job-7")
                yield Miner(cgroup, process)
            finally:
                process.kill()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path) as made:
        yield made


def top(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "agentwatch", "top", *map(str, arguments)]


@pytest.mark.parametrize("size", SIZES)
def test_an_agent_that_a_rule_froze_is_explained_resumed_paused_and_killed(
    daemon: Service, size: tuple[int, int]
) -> None:
    with miner(daemon) as agent, Terminal(top("--socket", daemon.socket), *size) as terminal:
        terminal.shows("job-7", "running", "0 alerts")
        agent.mine()
        terminal.shows("job-7 was FROZEN by rule", "1 FROZEN", "r lets it go on, K kills it")
        assert agent.cgroup.frozen()
        terminal.send("e")
        terminal.shows("Stratum", "why", "Protocol", "matched 'stratum'")
        terminal.send("Escape")
        terminal.shows("LAST ALERT")
        terminal.send("r")
        terminal.shows("Let job-7 go on?", "any other key")
        terminal.send("y")
        terminal.shows("job-7 is running again")
        assert not agent.cgroup.frozen()
        terminal.send("p")
        terminal.shows("Freeze job-7?")
        terminal.send("n")
        terminal.shows("Nothing was done.")
        assert not agent.cgroup.frozen()
        terminal.send("p")
        terminal.shows("Freeze job-7?")
        terminal.send("y")
        terminal.shows("job-7 is FROZEN")
        assert agent.cgroup.frozen()
        terminal.send("K")
        terminal.shows("Type job-7 to do it")
        terminal.enter("job-8")
        terminal.shows("Nothing was done: that is not job-7.")
        assert agent.cgroup.pids()
        terminal.send("K")
        terminal.shows("Type job-7 to do it")
        terminal.enter("job-7")
        terminal.shows("job-7 is killed", "0 agents")
        assert agent.cgroup.pids() == []


def test_a_flow_shows_what_was_said(daemon: Service) -> None:
    with miner(daemon) as agent, Terminal(top("--socket", daemon.socket), 80, 24) as terminal:
        terminal.shows("job-7")
        agent.mine()
        terminal.shows("FROZEN")
        terminal.send("3")
        terminal.shows("stratum", "127.0.0.1:", "49 B")
        terminal.send("Enter")
        terminal.shows('{"id":1,"method":"mining.subscribe"', "7b 22 69 64")


def test_what_was_saved_is_named(daemon: Service) -> None:
    with miner(daemon), Terminal(top("--socket", daemon.socket), 200, 60) as terminal:
        terminal.shows("job-7", "running")
        terminal.send("w")
        seen = terminal.shows("saved: ", ".trace")
        assert Path(seen.partition("saved: ")[2].split()[0]).is_file()


def test_read_only_has_no_key_that_acts(daemon: Service) -> None:
    with miner(daemon) as agent, Terminal(top("--socket", daemon.socket, "--readonly"), 80, 24) as terminal:
        terminal.shows("job-7", "--readonly")
        terminal.send("K", "p", "4")
        seen = terminal.shows("No alert was raised.")
        assert "pause" not in seen and "kill" not in seen
        assert not agent.cgroup.frozen()


def test_a_daemon_that_is_gone_is_said_and_the_next_one_is_found(daemon: Service) -> None:
    with miner(daemon), Terminal(top("--socket", daemon.socket), 80, 24) as terminal:
        terminal.shows("job-7", "nothing lost")
        daemon.kill()
        terminal.shows("NO DAEMON", "job-7")
        terminal.send("p", "y")
        daemon.start()
        terminal.shows("nothing lost", "job-7", seconds=30)


def test_without_a_daemon_it_says_so_and_can_be_left(tmp_path: Path) -> None:
    command = ["sh", "-c", '"$@"; echo "left with $?"; read -r _', "sh", *top("--socket", tmp_path / "no")]
    with Terminal(command, 80, 24) as terminal:
        terminal.shows("NO DAEMON")
        terminal.send("q")
        terminal.shows("left with 0")


def test_without_colour_there_is_none(tmp_path: Path) -> None:
    command = top("--replay", trace(tmp_path))
    with Terminal(command, 80, 24, {"NO_COLOR": "1"}) as terminal:
        terminal.shows("FROZEN", "event 7 of 7")
        styled = terminal.screen(styled=True)
        codes = {code for part in styled.split("\x1b[")[1:] for code in part.partition("m")[0].split(";")}
        assert not codes & {str(code) for code in (*range(30, 38), *range(40, 48))}


def test_colours_are_the_terminals_own(tmp_path: Path) -> None:
    with Terminal(top("--replay", trace(tmp_path)), 80, 24) as terminal:
        terminal.shows("FROZEN", "event 7 of 7")
        styled = terminal.screen(styled=True)
        assert "\x1b[38;2;" not in styled and "\x1b[48;2;" not in styled


def test_a_recording_is_stepped_through(tmp_path: Path) -> None:
    with Terminal(top("--replay", trace(tmp_path)), 80, 24) as terminal:
        terminal.shows("event 7 of 7", "FROZEN")
        terminal.send("5", ",")
        terminal.shows("event 6 of 7")
        terminal.send("<")
        terminal.shows("event 3 of 7", "row 1 of 3")
        terminal.send("t")
        terminal.shows("Go to")
        terminal.enter("100 %")
        terminal.shows("event 7 of 7")
