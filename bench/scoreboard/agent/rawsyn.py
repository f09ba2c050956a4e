"""A raw socket, and a few TCP SYNs from it: `rawsyn.py [HOST]`."""

import socket
import struct
import sys

host = sys.argv[1] if len(sys.argv) > 1 else "10.77.0.1"
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
    for port in range(1, 60):
        raw.sendto(struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1024, 0, 0), (host, 0))
