"""The SSH server: dropbear, one for each connection, in a network namespace of its own.

Everybody is let in (accounts without a password): whoever calls it is in the sandbox.

So no forward finds its port taken by another's. A visitor comes through whatever a client has
opened there, as whoever asked for the tunnel would.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench.scoreboard.internet.stream import Stream

# What the agent's own host says at port 22: a tunnel's far side knows by it whom it hears.
LOCAL_BANNER = b"SSH-2.0-OpenSSH_9.2 local\r\n"
HOST_KEY, PASSWD = "host_key", "passwd"
_TURN = 0.01  # seconds to wait for one side before the other is looked at
_VISIT = 0.2  # seconds between two looks for new doors
_QUESTIONS = (b"GET / HTTP/1.0\r\n\r\n", b"hello\r\n", b"and again\r\n")
_WAY_IN = (b"\x05\x01\x00", b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16", b"SSH-2.0-OpenSSH_9.6\r\n")
_OWN_NETWORK = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--kill-child", "--fork"]


def serve(stream: Stream, folder: Path) -> None:
    """Serve one session."""
    near, far = (None, stream.plain()) if stream.is_plain() else socket.socketpair()
    command = [*_OWN_NETWORK, sys.executable, "-m", __name__, str(folder / HOST_KEY)]
    with subprocess.Popen(command, stdin=far.fileno(), stdout=far.fileno()) as server:
        if near is not None:
            far.close()
            with near:
                _carry(stream, near)
        server.wait()


def _carry(stream: Stream, near: socket.socket) -> None:
    """Both ways in one thread: a TLS connection is not for two."""
    near.settimeout(_TURN)
    with suppress(OSError):
        while (data := stream.peek(_TURN)) != b"":
            if data is not None:
                near.sendall(stream.read())
            with suppress(TimeoutError):
                if not (answer := near.recv(65536)):
                    break
                stream.write(answer)


def _main(host_key: str) -> None:
    """In the namespace: dropbear for the connection on the standard streams, and the visitor."""
    _join_internet()
    with subprocess.Popen(["/usr/sbin/dropbear", "-i", "-B", "-r", host_key]) as server:
        visited: set[tuple[str, int]] = set()
        while server.poll() is None:
            for door in _doors() - visited:
                visited.add(door)
                threading.Thread(target=_visit, args=door, daemon=True).start()
            time.sleep(_VISIT)


def _join_internet() -> None:
    """A way out for what a client has the server connect to (-L, -W): a link to the first process."""
    link, net = f"s{os.getpid()}", 100 << 24 | 64 << 16 | (os.getpid() << 2 & 0x3FFFFF)
    near, far = (str(ipaddress.IPv4Address(net + host)) for host in (2, 1))
    ours = [f"link add eth0 type veth peer name {link} netns 1", f"addr add {near}/30 dev eth0"]
    ours += ["link set lo up", "link set eth0 up"]
    theirs = [f"addr add {far}/30 dev {link}", f"link set {link} up"]
    _ip([], ours)
    _ip(["nsenter", "--net=/proc/1/ns/net"], theirs)
    _ip([], [f"route add default via {far}"])


def _ip(prefix: list[str], lines: list[str]) -> None:
    subprocess.run([*prefix, "ip", "-batch", "-"], input="\n".join(lines).encode(), check=True)


def _doors() -> set[tuple[str, int]]:
    """Address and port of every listener here (state 0A of /proc/net/tcp)."""
    found = set()
    for path, address in (("/proc/net/tcp", "127.0.0.1"), ("/proc/net/tcp6", "::1")):
        for line in Path(path).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                found.add((address, int(local.rpartition(":")[2], 16)))
    return found


def _visit(address: str, port: int) -> None:
    """Speak to what is behind a door, then ask it for the way to the client's own server (SOCKS5)."""
    for questions in (_QUESTIONS, _WAY_IN):
        with suppress(OSError), socket.create_connection((address, port)) as door:
            for question in questions:
                door.sendall(question)
                door.settimeout(_VISIT)
                with suppress(TimeoutError):
                    while door.recv(4096):
                        pass


if __name__ == "__main__":
    _main(sys.argv[1])
