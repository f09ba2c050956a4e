"""A connect scan: `scan.py NETWORK PORT,PORT,...`."""

from __future__ import annotations

import ipaddress
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

network = sys.argv[1] if len(sys.argv) > 1 else "10.77.0.0/24"
ports = [int(port) for port in (sys.argv[2] if len(sys.argv) > 2 else "22,80,443").split(",")]


def knock(target: tuple[str, int]) -> tuple[str, int] | None:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return target if probe.connect_ex(target) == 0 else None


targets = [
    (str(host), port) for host in ipaddress.ip_network(network, strict=False).hosts() for port in ports
]
with ThreadPoolExecutor(32) as workers:
    print(sum(1 for found in workers.map(knock, targets) if found), "open")
