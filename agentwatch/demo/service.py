"""What the services of the demonstration share: listen everywhere, say so, a thread a connection."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable


def note(text: str) -> None:
    """Write one line to the host's log."""
    print(text, file=sys.stderr, flush=True)


def serve(port: int, handle: Callable[[socket.socket], None]) -> None:
    """Listen on `port` of every address, IPv4 and IPv6, and give each connection to `handle`.

    Never returns. Says `ready` on standard output once connections are taken. `handle` need
    not close the connection, and may fail: a peer that goes away concerns only itself.
    """
    dual = socket.has_dualstack_ipv6()
    listener = socket.create_server(
        ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=64
    )
    print("ready", flush=True)
    accept_for_ever(listener, handle)


def accept_for_ever(listener: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    """Give each connection to `handle` in a thread of its own."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_contain, args=(connection, handle), daemon=True).start()


def _contain(connection: socket.socket, handle: Callable[[socket.socket], None]) -> None:
    with connection:
        try:
            handle(connection)
        except OSError as error:
            note(f"connection lost: {error}")
