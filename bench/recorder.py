"""The recorder beside the daemon: what a round costs the core, and how much the recorder takes in.

Fed with the rounds of real processes, again and again, in CPU time: the recorder has a process of its
own. Goals: the core hands over at least a million records a second (it folds a quarter of that), and the
recorder takes in at least 100,000.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agentwatch.config.record import Incidents
from agentwatch.daemon.link import pack
from agentwatch.daemon.recorder import IncidentWriter
from agentwatch.sources.base import Round
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.past import rows_of
from agentwatch.trace.record import LAYOUTS, plain_schema
from agentwatch.trace.redact import Redactor
from bench.figures import show

REPEATS = 5


def rounds() -> list[Round]:
    """A mixed workload, recorded."""
    from tests.lab.watched import watched  # noqa: PLC0415 (needs root)

    shell = "for i in $(seq 300); do /bin/true $i --token=abcdefgh$i; done; cat /dev/null"
    with watched(["sh", "-c", shell]) as agent:
        kept: list[Round] = []
        while agent.cgroup.populated():
            if batches := agent.session.step(0.01):
                kept.append(batches)
    return kept


def main() -> None:
    made = rounds()
    records = sum(len(rows_of(batches)) for batches in made) * REPEATS
    size = sum(len(batch.data) for batches in made for batch in batches) * REPEATS

    began = time.process_time()
    for _ in range(REPEATS):
        for batches in made:
            pack(["round", [(int(batch.kind), batch.data) for batch in batches]])
    handed = time.process_time() - began
    show("handed over by the core", records / handed / 1e6, "million records/s", 1, at_least=True)

    redactor = Redactor()
    began = time.process_time()
    for _ in range(REPEATS):
        for batches in made:
            redactor(batches)
    masked = time.process_time() - began
    show("masked", records / masked / 1e3, "thousand records/s")
    show("16 MiB masked in", (16 << 20) / size * masked * 1e3, "ms")

    header = TraceHeader(1, plain_schema(), LAYOUTS, "", 0, "", "", "", 0)
    with tempfile.TemporaryDirectory() as folder:
        writer = IncidentWriter(Incidents(before=1), Path(folder), header, b"", None, lambda *said: None)
        began = time.process_time()
        for _ in range(REPEATS):
            for batches in made:
                writer.append(redactor(batches))
        kept = time.process_time() - began
        show("masked, kept and let go", records / kept / 1e3, "thousand records/s", 100, at_least=True)
        began = time.process_time()
        path = writer.save(1, "bench", "bench")
        show(
            "written", (time.process_time() - began) * 1e3, f"ms for {path.stat().st_size >> 10} KiB on disk"
        )
        writer.close()


if __name__ == "__main__":
    main()
