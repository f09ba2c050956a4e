"""What a ProxyCommand does: joins standard input and output to a port. connect.py HOST PORT."""

from __future__ import annotations

import os
import select
import socket
import sys


def main(host: str, port: int) -> None:
    connection = socket.create_connection((host, port))
    while True:
        ready, _, _ = select.select([0, connection.fileno()], [], [])
        for one in ready:
            data = os.read(0, 65536) if one == 0 else connection.recv(65536)
            if not data:
                return
            if one == 0:
                connection.sendall(data)
            else:
                os.write(1, data)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
