"""Listens, and gives each connection to `peer.answer`. Says `ready` once all ports are open."""

from __future__ import annotations

import resource
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from agentwatch.demo.service import note
from bench.scoreboard.internet import dns
from bench.scoreboard.internet.peer import Host, answer

BACKLOG = 128


def _route_everything_here() -> None:
    """Every address is ours (AnyIP): a local route for all that no nearer route covers."""
    for command in (
        "link set lo up",
        "route add local default dev lo table main",
        "-6 route add local default dev lo table main",
    ):
        done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
        if done.returncode and not command.startswith("-6"):
            sys.exit(f"ip {command}: {done.stderr.strip()}")


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
            listener = key.fileobj
            assert isinstance(listener, socket.socket)
            try:
                connection, _ = listener.accept()
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
