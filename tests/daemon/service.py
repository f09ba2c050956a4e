"""A real daemon, and agents for it to watch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agentwatch.control.client import Client, NoDaemon
from tests.lab import Cgroup, eventually

# Programs of agents: one that waits for a line and becomes another, one that goes on starting programs,
# and one that asks the pool at a port of this host for work. SLEEPS is a rule that tells of the second.
WAITS = ["sh", "-c", 'read -r _; exec "$@"', "sh"]
LOOP = ["sh", "-c", "while :; do sleep 0.05; done"]
MINER = """
import socket, sys, time
pool = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
pool.sendall(b'{"id":1,"method":"mining.subscribe","params":[]}\\n')
time.sleep(600)
"""
SLEEPS = """
title: sleeps
id: 11111111-1111-4111-8111-111111111111
level: low
logsource:
  category: process_creation
  product: linux
detection:
  selection:
    Image|endswith: /sleep
  condition: selection
"""


class Service:
    """`agentwatch daemon` in a process of its own, with a folder of its own."""

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self._arguments = arguments
        self.start()

    @property
    def socket(self) -> Path:
        return self.folder / "control.sock"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.log = (self.folder / "log").open("ab")
        command = [
            sys.executable,
            "-m",
            "agentwatch",
            "daemon",
            "--run-dir",
            str(self.folder),
            "--state-dir",
            str(self.folder / "state"),
            *self._arguments,
        ]
        self.process = subprocess.Popen(command, stderr=self.log)
        try:
            eventually(self._answers, 120)  # the first on a kernel compiles the probes
        except BaseException:  # nobody gets hold of one that did not start, to end it
            self.kill()
            print(self.said())
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.said()
        with suppress(NoDaemon):
            self.ask("status")
            return True
        return False

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The result of a request."""
        with Client(self.socket) as client:
            return client.ask(verb, **arguments)

    def attach(self, cgroup: Cgroup, mode: str = "enforce", **arguments: Any) -> str:
        """Have it watch a cgroup; the agent's name."""
        name: str = self.ask("attach", target=str(cgroup.path), mode=mode, **arguments)["agent"]
        return name

    def agent(self, name: str) -> dict[str, Any]:
        """What it says of an agent."""
        (found,) = [one for one in self.ask("agents") if one["name"] == name]
        return dict(found)

    def said(self) -> str:
        """Its log."""
        return (self.folder / "log").read_text()

    def kill(self) -> None:
        """As the kernel's out-of-memory killer would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As systemd does."""
        self.process.terminate()
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()
        self.log.close()


@contextmanager
def service(folder: Path, *arguments: str) -> Iterator[Service]:
    """A daemon, stopped at the end."""
    made = Service(folder, arguments)
    try:
        yield made
    finally:
        made.close()
