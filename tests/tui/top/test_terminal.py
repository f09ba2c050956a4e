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

from tests.daemon.configured import configured
from tests.daemon.service import MINER, WAITS, Service, service
from tests.lab import Cgroup, eventually
from tests.tui.top.material import trace
from tests.tui.top.terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
SIZES = [(80, 24), (200, 60)]
# Waits for a word, then is a miner until it is killed, then begins again when it is resumed.
WAIT = [*WAITS, sys.executable, "-c", MINER]


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


def test_what_was_saved_is_named_whole_and_told_again(daemon: Service) -> None:
    with miner(daemon) as agent, Terminal(top("--socket", daemon.socket), 200, 60) as terminal:
        terminal.shows("job-7", "running")
        agent.mine()
        terminal.shows("FROZEN")
        terminal.send("w")
        seen = terminal.shows("saved: ", ".trace")
        path = Path(seen.partition("saved: ")[2].split()[0])
    verify = [sys.executable, "-m", "agentwatch", "trace", "verify", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with Terminal(top("--replay", path), 80, 24) as terminal:
        terminal.shows("recording", "FROZEN", "Stratum")


@pytest.mark.parametrize("size", SIZES)
def test_screens_of_a_real_daemon(tmp_path: Path, size: tuple[int, int]) -> None:
    sink = f'[sinks.jsonl]\nenabled = true\npath = "{tmp_path}/alerts.jsonl"'
    with (
        configured(tmp_path, sink) as daemon,
        miner(daemon) as agent,
        Terminal(top("--socket", daemon.socket), *size) as terminal,
    ):
        terminal.shows("job-7", "running", "nothing lost")
        agent.mine()
        terminal.shows("FROZEN")
        terminal.send("8")
        terminal.shows("loss", "coverage", "probes", "lag", "ms from event to verdict", "jsonl: ", "sent")
        terminal.send("5")
        terminal.shows("process_creation", "network_connection")
        terminal.send("f")
        terminal.shows("Show rows where")
        terminal.enter("Category: network_connection and DestinationPort|gt: 1")
        terminal.hides("process_creation")
        terminal.shows("network_connection", "filter (esc: none) Category")
        terminal.send("f")
        terminal.shows("Show rows where")
        terminal.enter(" and Imag: x")
        terminal.shows("there is no field Imag here; perhaps Image")
        terminal.send("2")
        terminal.shows("COMMAND", "row 1 of")
        terminal.send("/")
        terminal.shows("Find a row")
        terminal.enter("no such process")
        terminal.shows("No row has 'no such process'.")
        terminal.send("/")
        terminal.shows("Find a row")
        terminal.enter("mining.subscribe")
        terminal.hides("Find a row")
        terminal.send(":")
        terminal.shows("Command (")
        terminal.enter("nonsense")
        terminal.shows("There is no command nonsense. Commands: agent NAME")
        terminal.send(":")
        terminal.shows("Command (")
        terminal.enter("agent job-7")
        terminal.shows("only agent job-7, esc: all")
        terminal.send("?")
        terminal.shows("keys", "look into the selected row", "lines 1 to" if size[1] == 24 else "FROZEN")


def test_escape_and_a_key_that_come_as_one_are_two_keys(tmp_path: Path) -> None:
    with Terminal(top("--replay", trace(tmp_path)), 80, 24) as terminal:
        terminal.shows("event 7 of 7", "FROZEN")
        terminal.send("?")
        terminal.shows("look into")
        terminal.send("Escape", "4")
        terminal.shows("LEVEL", "Mines")
        terminal.send("?")
        terminal.shows("look into")
        terminal.send("Escape", "j")
        terminal.shows("LEVEL", "row 2 of")


def test_another_size_is_filled_at_once(tmp_path: Path) -> None:
    with Terminal(top("--replay", trace(tmp_path)), 80, 24) as terminal:
        terminal.shows("event 7 of 7", "FROZEN")
        terminal.send("4")
        terminal.shows("LEVEL", "Mines")
        terminal.resize(160, 40)
        terminal.shows("WHO", "127.0.0.1:3333")
        terminal.resize(40, 12)
        terminal.hides("WHO")
        terminal.shows("LEVEL", "Mines", "row 1 of")
        terminal.resize(10, 3)
        terminal.resize(80, 24)
        terminal.shows("q quit", "Mines")


def test_a_terminal_that_moves_no_cursor_is_refused_and_an_old_one_will_do(tmp_path: Path) -> None:
    recording = trace(tmp_path)
    command = ["sh", "-c", '"$@"; echo "left with $?"; read -r _', "sh", *top("--replay", recording)]
    with Terminal(["env", "TERM=dumb", *command], 80, 24) as terminal:
        terminal.shows("needs a terminal that moves its cursor", "left with 1")
    with Terminal(["env", "TERM=vt100", *top("--replay", recording)], 80, 24) as terminal:
        terminal.shows("FROZEN", "event 7 of 7", "q quit")


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
        terminal.shows("NO DAEMON", "job-7", "systemctl start agentwatch")
        terminal.send("p", "y")
        daemon.start()
        terminal.shows("nothing lost", "job-7", seconds=30)
        terminal.hides("systemctl")


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


@pytest.mark.parametrize("size", SIZES)
def test_a_recording_is_stepped_through(tmp_path: Path, size: tuple[int, int]) -> None:
    with Terminal(top("--replay", trace(tmp_path)), *size) as terminal:
        terminal.shows("event 7 of 7", "FROZEN")
        terminal.send("5", ",")
        terminal.shows("event 6 of 7")
        terminal.send("<")
        terminal.shows("event 3 of 7", "row 1 of 3")
        terminal.send("t")
        terminal.shows("Go to")
        terminal.enter("100 %")
        terminal.shows("event 7 of 7")
