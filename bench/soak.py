"""Load for hours: does the daemon lose anything, and does it grow?

`python -m bench soak` for two hours, or for AGENTWATCH_SOAK_SECONDS. Two agents work all the time (programs,
connections, datagrams, pipes, files), a third comes every half minute, speaks stratum, is frozen by a
rule, looked at, and killed. Everything is recorded, with rotation. Beside it a client that follows
events and never reads, a webhook that nobody answers, and a file of alerts that rotates.

Goals: no record lost; descriptors of each process at the end as a quarter into the run, and memory within
5 % of it: the last alerts (ALERTS_KEPT) and those that wait for the webhook (QUEUE) go on adding up.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentwatch.control.client import Client
from bench.figures import show
from bench.latency import POOL
from tests.daemon.service import MINER, WAITS, Service, service
from tests.lab import Cgroup, compiled, eventually

SECONDS = int(os.environ.get("AGENTWATCH_SOAK_SECONDS", "7200"))
SAMPLE_SECONDS = 5
MINER_SECONDS = 30
WORK = {
    "builder": ("exec 50", "fork 50", "open 800"),
    "client": ("tcp-connect 100", "sendto 1000", "pipe 800", "udp-connect 800"),
}
CONFIG = """
[record]
segment_bytes = 8_388_608
max_bytes = 67_108_864
[incidents]
max_bytes = 67_108_864
[sinks.jsonl]
enabled = true
path = "{folder}/alerts.jsonl"
rotate_bytes = 65536
keep = 2
[[sinks.webhook]]
id = "nobody"
url = "http://127.0.0.1:9/"
"""


@contextmanager
def worker(daemon: Service, name: str) -> Iterator[None]:
    """An agent that does its share of WORK until the end."""
    flood = compiled("flood")
    parts = "".join(f"{flood} {part} {SECONDS + 60} >/dev/null & " for part in WORK[name])
    with Cgroup(name) as cgroup:
        process = cgroup.popen(["sh", "-c", f"{parts} wait"])
        daemon.attach(cgroup, name=name)
        yield
    process.wait()


def mine(daemon: Service, port: str, number: int) -> None:
    """An agent that comes, is frozen by a rule, asked about, and killed."""
    name = f"miner-{number}"
    with Cgroup(name) as cgroup:
        process = cgroup.popen([*WAITS, sys.executable, "-c", MINER, port], stdin=subprocess.PIPE)
        daemon.attach(cgroup, name=name)
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        eventually(lambda: daemon.agent(name)["state"] == "paused", 60)
        for verb in ("ps", "flows"):
            daemon.ask(verb, agent=name)
        daemon.ask("resume", agent=name)
        daemon.ask("kill", agent=name)
        process.wait()


def usage(daemon: Service) -> dict[str, tuple[int, int]]:
    """By process of the daemon: resident KiB and descriptors."""
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    found = {}
    for pid in (str(daemon.process.pid), *children):
        folder = Path("/proc", pid)
        arguments = (folder / "cmdline").read_bytes().decode().split("\0")
        name = arguments[arguments.index("-m") + 1].rpartition(".")[2]
        if name == "agentwatch":
            name = "core"
        resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
        found[name] = resident, len(list((folder / "fd").iterdir()))
    return found


def _loaded(daemon: Service, port: str) -> dict[str, list[tuple[int, int]]]:
    samples: dict[str, list[tuple[int, int]]] = defaultdict(list)
    began = time.monotonic()
    miners = 0
    while (elapsed := time.monotonic() - began) < SECONDS:
        if elapsed >= miners * MINER_SECONDS:
            mine(daemon, port, miners)
            miners += 1
        for name, sample in usage(daemon).items():
            samples[name].append(sample)
        if len(samples["core"]) % 60 == 0:
            status = daemon.ask("status")
            print(f"{elapsed:6.0f} s, {status['records']:,} records, lost {status['lost'] or 'nothing'}:",
                  {name: values[-1] for name, values in samples.items()}, flush=True)  # fmt: skip
        time.sleep(SAMPLE_SECONDS)
    return samples


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentwatch-soak-")))
        config = folder / "agentwatch.toml"
        config.write_text(CONFIG.format(folder=folder))
        daemon = stack.enter_context(service(folder, "--config", str(config), "--record"))
        command = [sys.executable, "-c", POOL]  # it complains of miners that are killed
        pool = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        stack.callback(pool.wait)
        stack.callback(pool.kill)
        assert pool.stdout is not None
        port = pool.stdout.readline().strip().decode()
        stack.enter_context(Client(daemon.socket)).follow("events")  # and never read
        for name in WORK:
            stack.enter_context(worker(daemon, name))
        samples = _loaded(daemon, port)
        status = daemon.ask("status")
    show("load lasted", SECONDS / 60, "minutes")
    show("records", status["records"] / 1e6, "millions")
    show("records lost", sum(status["lost"].values()), "", 0)
    for name, values in samples.items():
        part = max(1, len(values) // 12)
        start = values[len(values) // 4 :][:part]
        for which, unit in enumerate(("KiB resident", "descriptors")):
            before, after = (
                statistics.median(value[which] for value in few) for few in (start, values[-part:])
            )
            show(f"{name}: {unit}, a quarter into the run", before, "")
            show(f"{name}: {unit}, at the end", after, "", before * 1.05)
