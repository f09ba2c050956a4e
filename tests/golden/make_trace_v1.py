"""Makes trace-v1.awt: `python -m tests.golden.make_trace_v1`. Never run again once it is released.

Compressors differ between releases, so making it again may give other bytes; the file that is
kept is what counts.
"""

from __future__ import annotations

from pathlib import Path

from agentwatch.trace.writer import TraceWriter
from tests.trace.samples import MARK, header, rounds

PATH = Path(__file__).with_name("trace-v1.awt")
HEADER = header(host="golden", extra={"users": {"0": "root"}})
RULES = b"title: Golden\n"
ROUNDS = rounds(20, seed=20)


def main() -> None:
    with TraceWriter(PATH, HEADER, rules=RULES, flush_seconds=3600, overwrite=True, sync=MARK) as writer:
        for number, batches in enumerate(ROUNDS, 1):
            writer.append(batches)
            if not number % 8:
                writer.flush()


if __name__ == "__main__":
    main()
