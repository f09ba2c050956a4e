"""Holds two connections: a relay between them, or one of those that resemble it.

joins.py HOW HOST PORT. HOW: relay, relay-tls (outside with TLS), relay-late (connects inwards when
bytes come), relay-unix (inside is a Unix socket); proxy (accepts, and connects to HOST), client (of
HOST and of a local service, in turn), worker (of HOST and of a local worker, which all speak the
same protocol).
"""

from __future__ import annotations

import atexit
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path


def echo(path: str) -> None:
    """Answer everything with it and it again, connection by connection; with a path, on a Unix socket."""

    def serve(connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data + data)

    server = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    server.bind(path or ("127.0.0.1", 0))
    server.listen()
    print(path or server.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


def start_local(family: int) -> str | int:
    """An echo in a process of its own; its port or path."""
    path = str(Path(tempfile.mkdtemp()) / "service.sock") if family == socket.AF_UNIX else ""
    server = subprocess.Popen(
        [sys.executable, __file__, "echo", path, "0"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    name = server.stdout.readline().strip()
    atexit.register(server.kill)
    return name if path else int(name)


def connect(host: str, port: int, secure: bool = False) -> socket.socket:
    """A connection, with TLS or without."""
    connection = socket.create_connection((host, port))
    if not secure:
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def copy(one: socket.socket, other: socket.socket) -> None:
    """Hand over, both ways, until one ends."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            data = ready.recv(4096)
            if not data:
                return
            (other if ready is one else one).sendall(data)


def relay(how: str, host: str, port: int) -> None:
    target = start_local(socket.AF_UNIX if how == "relay-unix" else socket.AF_INET)
    outer = connect(host, port, how == "relay-tls")
    if how == "relay-late":
        select.select([outer], [], [])
    if isinstance(target, int):
        copy(outer, connect("127.0.0.1", target))
    else:
        with socket.socket(socket.AF_UNIX) as inner:
            inner.connect(target)
            copy(outer, inner)


def proxy(host: str, port: int) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    page = f"http://127.0.0.1:{server.getsockname()[1]}/"
    client = subprocess.Popen(["sh", "-c", f"for n in 1 2 3; do curl -s {page} >/dev/null; done"])
    for _ in range(3):
        connection, _ = server.accept()
        copy(connection, connect(host, port))
        connection.close()
    client.wait()


def client(host: str, port: int) -> None:
    local = start_local(socket.AF_INET)
    assert isinstance(local, int)
    service = connect("127.0.0.1", local)
    for number in range(6):
        with connect(host, port) as page:
            page.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % number)
            answer = b"".join(iter(lambda: page.recv(4096), b""))
        service.sendall(b"SET answer-%d %d\r\n" % (number, len(answer)))
        service.recv(4096)


def worker(host: str, port: int) -> None:
    """Greets both sides as they greet it, then sends sums."""
    local = start_local(socket.AF_INET)
    assert isinstance(local, int)
    head, peer = connect(host, port), connect("127.0.0.1", local)
    for one in (head, peer):
        one.sendall(b"GREETINGS 1.0 from a worker\r\n")
    for number in range(6):
        came = [len(one.recv(4096)) for one in (head, peer)]
        for one in (head, peer):
            one.sendall(b"%d is the sum of %d\r\n" % (sum(came), number))


def main(how: str, host: str, port: int) -> None:
    if how.startswith("relay"):
        relay(how, host, port)
    elif how == "echo":
        echo(host)
    else:
        {"proxy": proxy, "client": client, "worker": worker}[how](host, port)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
