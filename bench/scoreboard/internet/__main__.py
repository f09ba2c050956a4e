"""Listens, and gives each connection to `peer.answer`. Says `ready` once all ports are open."""

from __future__ import annotations

import os
import resource
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from agentwatch.demo.service import note
from bench.scoreboard import sandbox
from bench.scoreboard.internet import dns, sftp
from bench.scoreboard.internet.peer import Host, answer
from bench.scoreboard.internet.ssh import PASSWD

BACKLOG = 128
_REPOSITORIES = ("project.git", "repo.git", "org/repo.git")
# Where dropbear looks for it; Debian keeps another at another place, if at all.
_SFTP = f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I {shlex.quote(sftp.__file__)}\n"


def _route_everything_here() -> None:
    """Every address is ours (AnyIP): a local route for all that no nearer route covers.

    Except of the agent's neighbours: of 10.77.0.0/16 the first fifteen are there.
    """
    for command in (
        "link set lo up",
        "route add local default dev lo table main",
        "route add unreachable 10.77.0.0/16 table main",
        "route add local 10.77.0.0/28 dev lo table main",
        "-6 route add local default dev lo table main",
    ):
        done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
        if done.returncode and not command.startswith("-6"):
            sys.exit(f"ip {command}: {done.stderr.strip()}")


def _enter_throwaway_root(folder: Path) -> None:
    """What sessions of the SSH server write is written nowhere."""
    with tempfile.TemporaryDirectory(dir=folder) as base:
        root = sandbox.make_root(Path(base))
        for kept in (Path(sys.prefix), Path(__file__).parents[3]):
            sandbox.keep(root, kept.resolve(), read_only=True)
        sandbox.keep(root, folder, read_only=False)
        sandbox.put(root / "etc/passwd", (folder / PASSWD).read_bytes(), 0o644)
        sandbox.put(root / "usr/lib/sftp-server", _SFTP.encode(), 0o755)
        here = Path.cwd()
        sandbox.enter(root)
        for name in _REPOSITORIES:
            subprocess.run(["git", "init", "-q", "--bare", f"/home/{name}"], check=False)
        os.chdir(here)


def _listen(port: int, local: bool) -> list[socket.socket]:
    wanted = [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
    if not local:
        wanted = [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)]
    found = []
    for address, family in wanted:
        try:
            found.append(socket.create_server((address, port), family=family, backlog=BACKLOG))
        except OSError as error:
            note(f"{address} port {port}: {error}")
    return found


def _listen_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(BACKLOG)
    return listener


def _serve(listeners: Sequence[socket.socket], host: Host) -> None:
    selector = selectors.DefaultSelector()
    for listener in listeners:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            try:
                connection, _ = key.fileobj.accept()
            except OSError:
                continue
            connection.setblocking(True)
            threading.Thread(target=_contain, args=(connection, host), daemon=True).start()


def _contain(connection: socket.socket, host: Host) -> None:
    with connection:
        try:
            answer(connection, host)
        except (OSError, ValueError) as error:  # concerns this peer only
            note(f"connection lost: {error}")


def main(arguments: Sequence[str]) -> None:
    """Serve for ever."""
    folder, local = Path(arguments[0]), "--local" in arguments
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if not local:
        _route_everything_here()
        _enter_throwaway_root(folder)
        dns.start()
    listeners = []
    for word in arguments[1:]:
        if word.isdigit():
            listeners += _listen(int(word), local)
        elif word.startswith("/"):
            listeners.append(_listen_unix(Path(word)))
    _serve(listeners, Host(folder, local))


if __name__ == "__main__":
    main(sys.argv[1:])
