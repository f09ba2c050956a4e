"""A web server of one page: the honest request of the demonstration goes here."""

from __future__ import annotations

import socket

from agentwatch.demo.service import note, serve

PORT = 80
PAGE = b"The answer is 42.\n"


def answer(connection: socket.socket) -> None:
    """Read one request (up to 16 KiB of head), answer it with the page."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 16384:
        data = connection.recv(4096)
        if not data:
            return
        head += data
    note(head.split(b"\r\n", 1)[0].decode("latin-1"))
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: "
        + str(len(PAGE)).encode()
        + b"\r\n\r\n"
        + PAGE
    )


if __name__ == "__main__":
    serve(PORT, answer)
