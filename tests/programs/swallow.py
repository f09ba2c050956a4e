"""A host that takes what it is sent on any connection to its port, and answers when all has come."""

from __future__ import annotations

import socketserver
import sys


class Swallow(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self) -> None:
        while self.request.recv(1 << 20):
            pass
        self.request.sendall(b"!")


class Server(socketserver.ThreadingTCPServer):
    """All of them."""

    allow_reuse_address = daemon_threads = True


with Server(("0.0.0.0", int(sys.argv[1])), Swallow) as server:
    print("ready", flush=True)
    server.serve_forever()
