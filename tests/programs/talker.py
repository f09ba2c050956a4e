"""An agent that ran before its watch: holds a connection and a listener, then does what it is told.

    talker.py HOST PORT

Connects to HOST:PORT and listens on a port of its own, which it prints. Then obeys lines on
standard input: `say TEXT` sends a line on the old connection, `run` starts /bin/true, `thread`
does so from a thread that was there from the start, `accept` takes a connection on the old
listener, `close` closes the old connection, `end` ends. After each it prints `done`.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading

_orders: queue.Queue[str] = queue.Queue()
_answers: queue.Queue[None] = queue.Queue()


def _thread() -> None:
    while _orders.get() != "end":
        subprocess.run(["/bin/true", "from a thread"], check=True)
        _answers.put(None)


def main(host: str, port: int) -> None:
    """Obey until `end`."""
    threading.Thread(target=_thread, daemon=True).start()
    held: list[socket.socket] = []
    with socket.create_connection((host, port)) as old, socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        for line in sys.stdin:
            order, _, text = line.rstrip("\n").partition(" ")
            if order == "say":
                old.sendall(text.encode() + b"\n")
            elif order == "run":
                subprocess.run(["/bin/true", "from main"], check=True)
            elif order == "thread":
                _orders.put(order)
                _answers.get()
            elif order == "accept":
                held.append(listener.accept()[0])
            elif order == "close":
                old.close()
            elif order == "end":
                break
            print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
