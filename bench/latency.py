"""Latency: from the first decisive byte handed to the kernel to the write of cgroup.freeze.

The agent speaks stratum on one connection after the other; each is recognised, the agent
frozen and resumed. Once idle, once under 100,000 other events a second from the same agent.
Goals: median 0.5 ms and 99th percentile 2 ms idle, 2 and 10 ms under load.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import textwrap
from typing import Any

from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from bench.figures import percentile, show
from tests.lab import compiled
from tests.lab.watched import watched

COUNT = 300
LOAD = 100_000

POOL = textwrap.dedent(
    """
    import socket, threading
    server = socket.create_server(("127.0.0.1", 0)); print(server.getsockname()[1], flush=True)
    def serve(peer):
        while peer.recv(4096): peer.sendall(b'{"id":1,"result":[],"error":null}\\n')
    while True:
        peer, _ = server.accept(); threading.Thread(target=serve, args=(peer,), daemon=True).start()
    """
)
AGENT = textwrap.dedent(
    """
    import socket, sys, time
    for number in range(int(sys.argv[2])):
        client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        client.sendall(b'{"id":1,"method":"mining.subscribe","params":["bench"]}\\n')
        client.recv(4096); client.close(); time.sleep(0.01)
    """
)


def _measure(load: int) -> tuple[list[float], list[float]]:
    """Latencies to the write and to `frozen 1`, ms."""
    pool = subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE)
    assert pool.stdout is not None
    port = pool.stdout.readline().strip().decode()
    agent_code = [sys.executable, "-c", AGENT, port, str(COUNT)]
    command = agent_code
    if load:
        flood = f"{compiled('flood')} udp-connect {load} 600"
        command = ["sh", "-c", f'{flood} >/dev/null & "$@"; kill $!', "sh", *agent_code]
    settled: list[float] = []
    with watched(command, rules=load_rules([RULES]), mode="enforce") as agent:
        while agent.cgroup.populated():
            agent.step()
            agent.rows.clear()
            if agent.paused:
                agent.resume("bench")
    pool.kill()
    pool.wait()
    acts: list[dict[str, Any]] = [alert for alert in agent.alerts if alert["acted"] == "pause"]
    return [alert["latency_us"] / 1000 for alert in acts], settled


def main() -> None:
    for name, load, median, tail in (("idle", 0, 0.5, 2), (f"under {LOAD:,} events/s", LOAD, 2, 10)):
        latencies, _ = _measure(load)
        show(f"{name}: agents frozen of {COUNT}", len(latencies), "", COUNT, at_least=True)
        show(f"{name}: decisive byte to cgroup.freeze, median", statistics.median(latencies), "ms", median)
        show(f"{name}: 99th percentile", percentile(latencies, 0.99), "ms", tail)
