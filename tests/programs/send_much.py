"""Sends so many bytes to HOST PORT, where tests/programs/swallow.py may wait for them."""

from __future__ import annotations

import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    rest = int(sys.argv[3])
    while rest > 0:
        rest -= connection.send(bytes(min(rest, 1 << 16)))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
