"""Every screen of `agentwatch top` as a person sees it, captured from a real daemon with real agents.

    python -m tests.tui.top.panes > docs/top-screens.md

Needs root and tmux. The GPUs are the stand-in's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.daemon.configured import running
from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually
from tests.lab.gpu import Gpus, stand_in
from tests.tui.top.terminal import REPOSITORY, Terminal

SIZES = ((80, 24), (200, 60))
FOLDER = Path("/tmp/job")  # stands in the panes
PYTHON = "/usr/bin/python3"
SINKS = """
[sinks.jsonl]
enabled = true
path = "{folder}/alerts.jsonl"
[[sinks.webhook]]
id = "night"
url = "http://127.0.0.1:1/"
"""
MINER = """
import socket, sys, time
pool = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
pool.sendall(b'{"id":1,"method":"mining.subscribe","params":["xmrig/6.21"]}\\n')
time.sleep(600)
"""
AGENT = """
import socket, subprocess, sys
sys.stdin.readline()
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as model:
    model.sendall(b"GET /v1/models HTTP/1.1\\r\\nHost: models.example\\r\\n\\r\\n")
    model.recv(4096)
for _ in range(2):
    subprocess.run("sleep 0.05; true", shell=True)
open("/etc/shadow").read()
subprocess.run("/usr/bin/python3 mine.py " + sys.argv[1], shell=True)
"""
TRAINER = "while :; do sleep 2; done"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_BLANK = re.compile(r"\n{4,}")


@contextmanager
def answering() -> Iterator[tuple[int, int]]:
    """The ports of a pool that says nothing and of a model that answers."""
    kept = []

    def serve(server: socket.socket, answer: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                kept.append(peer)
                if answer:
                    peer.recv(4096)
                    peer.sendall(answer)

    body = b'{"data":[{"id":"small"}]}'
    model_answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as pool, socket.create_server(("127.0.0.1", 0)) as model:
        for server, answer in ((pool, b""), (model, model_answer)):
            threading.Thread(target=serve, args=(server, answer), daemon=True).start()
        yield pool.getsockname()[1], model.getsockname()[1]
    for one in kept:
        one.close()


class Stage:
    """A daemon, an agent that will mine, a training on two GPUs."""

    def __init__(self, stack: ExitStack) -> None:
        folder = self._make(stack, FOLDER.with_name("agentwatch"))
        self.gpus: Gpus = stand_in(folder / "gpus", os.environ.__setitem__)
        self.gpus.gpu("GPU-5c8a", 97)
        self.gpus.gpu("GPU-77f0", -1)
        self.gpus.instance("MIG-0b1e", "GPU-77f0", 1)
        self.gpus.tell()
        config = folder / "agentwatch.toml"
        config.write_text(SINKS.format(folder=folder))
        pool, model = stack.enter_context(answering())
        self.daemon: Service = stack.enter_context(service(folder, "--config", str(config)))
        self._make(stack, FOLDER)
        (FOLDER / "agent.py").write_text(AGENT)
        (FOLDER / "mine.py").write_text(MINER)
        command = [PYTHON, str(FOLDER / "agent.py"), str(pool), str(model)]
        self._agent = self._start(stack, "job-7", command)
        trainer = self._start(stack, "trainer", ["sh", "-c", TRAINER])
        self.gpus.process("GPU-5c8a", trainer.pid, 97)
        self.gpus.process("MIG-0b1e", trainer.pid, -1, memory=1 << 30)
        self.gpus.tell()
        eventually(lambda: self.daemon.agent("trainer")["gpu"], 40)

    def _make(self, stack: ExitStack, folder: Path) -> Path:
        folder.mkdir()
        stack.callback(shutil.rmtree, folder)
        return folder

    def _start(self, stack: ExitStack, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        cgroup = stack.enter_context(Cgroup(name))
        process = stack.enter_context(
            running(cgroup, command, stdin=subprocess.PIPE, cwd=FOLDER, env=ENVIRONMENT)
        )
        eventually(cgroup.pids)
        self.daemon.attach(cgroup, name=name)
        return process

    def mine(self) -> None:
        assert self._agent.stdin is not None
        self._agent.stdin.write(b"\n")
        self._agent.stdin.flush()


def top(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "agentwatch", "top", *map(str, arguments)]


Pane = tuple[str, str]
"""A title and what is in sight."""


def screens(stage: Stage, terminal: Terminal) -> Iterator[Pane]:
    """All screens over the daemon, in the order in which a night goes."""

    def pane(title: str, *texts: str) -> Pane:
        return title, terminal.shows(*texts, seconds=60)

    def back(gone: str) -> None:
        """Escape, and wait until what was open is gone."""
        terminal.send("Escape")
        terminal.hides(gone)

    terminal.shows("job-7", "trainer")
    stage.mine()
    yield pane("1 agents", "job-7 was FROZEN by", "GPU")
    terminal.send("Enter")
    yield pane("2 processes, of one agent (enter on the agent)", "only agent job-7", "mine.py")
    back("only agent")
    terminal.send("3")
    yield pane("3 flows", "stratum", "http", "models.example")
    terminal.send("Enter")
    yield pane("A connection (enter on it)", "sent first", "0000  7b")
    back("sent first")
    terminal.send("4")
    yield pane("4 alerts", "LEVEL", "critical", "high")
    terminal.send("e")
    yield pane("Why (e on an alert or an agent)", "why", "matched")
    back("matched")
    terminal.send("5")
    yield pane("5 events", "EVENT", "process_creation")
    terminal.send("f")
    yield pane("A filter is asked for (f)", "Show rows where")
    terminal.enter("Category: network_connection")
    yield pane("Events that pass a filter", "filter (esc: none) Category")
    back("(esc: none)")
    terminal.send(":")
    yield pane("A command is asked for (:)", "Command (")
    back("Command (")
    terminal.send("6")
    yield pane("6 gpu", "Stand-in H100", "MIG", "trainer", "97 %")
    terminal.send("7")
    yield pane("7 files", "/etc/shadow")
    terminal.send("8")
    yield pane("8 health", "sink", "coverage", "webhook-night")
    terminal.send("?")
    yield pane("Help (?)", "look into the selected row")
    back("look into")


def acts(stage: Stage, terminal: Terminal) -> Iterator[Pane]:
    """What is said and asked when something is done."""

    def pane(title: str, *texts: str) -> Pane:
        return title, terminal.shows(*texts, seconds=60)

    terminal.send("1")
    terminal.shows("LAST ALERT", "job-7")
    terminal.send("w")
    yield pane("A trace was saved (w)", "saved: ")
    terminal.send("r")
    yield pane("Before an agent goes on (r)", "Let job-7 go on?")
    terminal.send("n")
    terminal.shows("Nothing was done.")
    terminal.send("K")
    yield pane("Before an agent is killed (K)", "Type job-7 to do it")
    terminal.enter("job-7")
    yield pane("It was killed", "job-7 is killed")
    stage.daemon.kill()
    yield pane("The daemon is gone", "NO DAEMON")


def over_a_recording(terminal: Terminal) -> Iterator[Pane]:
    terminal.shows("LAST ALERT", "recording")
    terminal.send("5")
    at_end = re.search(r"event (\d+) of \1", terminal.shows("EVENT", "flow", "event "))
    assert at_end is not None
    terminal.send("<", "<")
    terminal.hides(at_end.group())
    terminal.hides("replaying")
    yield "Over a recording (top --replay TRACE, then 5 and <)", terminal.shows("row 1 of")


def fenced(title: str, screen: str, state: Path) -> str:
    """A pane in Markdown; where much of it is empty, less of that. Paths are as of an installed release."""
    screen = screen.replace(f"{REPOSITORY}/", "/usr/lib/agentwatch/").replace(
        str(state), "/var/lib/agentwatch"
    )
    lines = "\n".join(one.rstrip() for one in screen.rstrip("\n").split("\n"))
    return f"**{title}**\n\n```\n{_BLANK.sub(chr(10) * 4, lines)}\n```\n"


def captured(width: int, height: int) -> Iterator[str]:
    """All panes of a size."""
    with ExitStack() as stack:
        stage = Stage(stack)
        state = stage.daemon.folder / "state"
        with Terminal(top("--socket", stage.daemon.socket), width, height) as terminal:
            for title, screen in (*screens(stage, terminal), *acts(stage, terminal)):
                yield fenced(title, screen, state)
        trace = min(stage.daemon.folder.rglob("*job-7*.trace"))  # the one that was saved
        with Terminal(top("--replay", trace), width, height) as terminal:
            for title, screen in over_a_recording(terminal):
                yield fenced(title, screen, state)


def main() -> None:
    print("# Screens of `agentwatch top`\n")
    print("Captured from a terminal by `python -m tests.tui.top.panes`, over a daemon that watches an agent")
    print("which begins to mine, and a training on a stand-in of two GPUs. What they say: [top](top.md).")
    for width, height in SIZES:
        print(f"\n## {width} x {height}\n")
        print("\n".join(captured(width, height)))


if __name__ == "__main__":
    main()
