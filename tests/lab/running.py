"""An agent that runs before anything watches it: tests/programs/talker.py in a cgroup of its own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab import PROGRAMS, Cgroup

PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Talker:
    """The agent, the other end of its old connection, and the port that it listens on."""

    process: subprocess.Popen[bytes]
    cgroup: Cgroup
    peer: socket.socket
    port: int

    @property
    def argv(self) -> tuple[str, ...]:
        host, port = self.peer.getsockname()
        return (PYTHON, str(PROGRAMS / "talker.py"), host, str(port))

    def tell(self, order: str) -> None:
        """Give an order and wait until it is carried out."""
        self.ask(order)
        self.done()

    def ask(self, order: str) -> None:
        """Give an order."""
        assert self.process.stdin is not None
        self.process.stdin.write(order.encode() + b"\n")
        self.process.stdin.flush()

    def done(self) -> None:
        """Wait until the order given is carried out."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"done\n"


@contextmanager
def talker(cwd: Path, name: str = "talker") -> Iterator[Talker]:
    """Start it, and end it."""
    with Cgroup(name) as cgroup, socket.create_server(("127.0.0.1", 0)) as server:
        command = [PYTHON, str(PROGRAMS / "talker.py"), *map(str, server.getsockname())]
        with cgroup.popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            peer, _ = server.accept()
            with peer:
                try:
                    assert process.stdout is not None
                    port = int(process.stdout.readline())
                    yield Talker(process, cgroup, peer, port)
                finally:
                    cgroup.freeze(False)
                    process.kill()
