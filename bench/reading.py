"""Reading: 500,000 events a second from one agent on one CPU, read and decoded on the other.

The agent connects a UDP socket over and over: one slot each. Goal: none lost in 30 s, at most
35 % of a CPU for reading and decoding.
"""

from __future__ import annotations

import os
import time

from agentwatch.schema import decode
from agentwatch.sources.base import BatchKind
from agentwatch.sources.kernel import POLL_SECONDS
from bench.figures import show
from tests.lab import compiled
from tests.lab.watched import watched

RATE = 500_000
SECONDS = 30.0
_DECODERS = {BatchKind.SLOTS: decode.slots, BatchKind.RECORDS: decode.records, BatchKind.NOTES: decode.notes}


def main() -> None:
    before = os.sched_getaffinity(0)
    flood = ["taskset", "-c", "0", str(compiled("flood")), "udp-connect", str(RATE), str(SECONDS)]
    with watched(flood) as agent:
        os.sched_setaffinity(0, {max(before)})
        source, cgroup = agent.session.source, agent.cgroup
        events, busy, wall = 0, time.process_time(), time.monotonic()
        while cgroup.populated():
            # The figure is of reading and decoding alone: nothing is folded here.
            for batch in source.poll(POLL_SECONDS):
                events += len(_DECODERS[batch.kind](batch.data))
        busy, wall = time.process_time() - busy, time.monotonic() - wall
        lost = sum(lost for _, _, lost in agent.session.probes.counts(1))
    os.sched_setaffinity(0, before)
    show("events a second from one agent", events / wall, "/s", RATE * 0.97, at_least=True)
    show("events lost", lost, "", 0)
    show("CPU used for reading and decoding", 100 * busy / wall, "%", 35)
