"""A stratum client that leaves its parents: `stratum_daemon.py HOST PORT PIDFILE`.

Forks, starts a session, forks again (daemon(7)); both parents are gone before the first
byte is sent. PIDFILE then holds the pid of what is left, and `done` in the line below once
both of its requests were answered.
"""

import os
import socket
import sys
from pathlib import Path

REQUESTS = (
    b'{"id":1,"method":"mining.subscribe","params":["daemon/1.0"]}\n',
    b'{"id":2,"method":"mining.authorize","params":["worker.1","x"]}\n',
)


def leave_parents() -> None:
    """Go on in a grandchild, in a session of its own, whose parents have ended."""
    if os.fork():
        os._exit(0)
    os.setsid()
    parent_alive, parent_end = os.pipe()
    if os.fork():
        os._exit(0)
    os.close(parent_end)
    os.read(parent_alive, 1)  # ends when the parent does


def main(host: str, port: int, pid_file: Path) -> None:
    """Become a daemon, then speak with the pool."""
    leave_parents()
    pid_file.write_text(f"{os.getpid()}\n")
    with socket.create_connection((host, port)) as connection, connection.makefile("rb") as answers:
        for request in REQUESTS:
            connection.sendall(request)
            if not answers.readline():
                sys.exit("the pool hung up")
    pid_file.write_text(f"{os.getpid()}\ndone\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
