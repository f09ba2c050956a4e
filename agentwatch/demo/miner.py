"""A stratum client that hashes nothing: it logs in at a pool, takes some jobs and leaves.

Needs nothing but the standard library, so that the demonstration can run a copy of it
under an innocent name.
"""

from __future__ import annotations

import json
import socket
import sys

JOBS = 3


def mine(host: str, port: int) -> int:
    """Take `JOBS` jobs from the pool; return how many came before it hung up."""
    jobs = 0
    with socket.create_connection((host, port)) as connection, connection.makefile("rb") as lines:
        for number, (method, parameters) in enumerate(
            [("mining.subscribe", ["demo/1.0"]), ("mining.authorize", ["worker.1", "x"])], 1
        ):
            request = {"id": number, "method": method, "params": parameters}
            connection.sendall(json.dumps(request).encode() + b"\n")
        for line in lines:
            jobs += json.loads(line).get("method") == "mining.notify"
            if jobs == JOBS:
                break
    return jobs


if __name__ == "__main__":
    sys.exit(0 if mine(sys.argv[1], int(sys.argv[2])) == JOBS else 1)
