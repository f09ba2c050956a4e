"""Traces of every version of the format stay readable. Nothing here depends on what makes traces today."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agentwatch.sources.base import BatchKind
from agentwatch.trace.format import Layout
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.verify import verify


def test_version_1() -> None:
    path = Path(__file__).with_name("trace-v1.awt")
    content = hashlib.sha256()
    with TraceReader(path) as reader:
        header = reader.header
        assert (header.host, header.kernel, header.mode) == ("golden", "6.18.0", "enforce")
        assert header.layouts[BatchKind.SLOTS] == Layout(time=(8, 8), agent=(20, 4), pid=(24, 4))
        assert header.agents == ("demo",) and header.extra == {"users": {"0": "root"}}
        assert reader.rules == b"title: Golden\n"
        for batches in reader:
            for batch in batches:
                content.update(b"%d %d " % (batch.kind, len(batch.data)) + batch.data)
            content.update(b"\n")
    assert content.hexdigest() == "723b73ea176a04e0b5051eb549cd03e721fe24696c0e568277db7e4844d63466"
    report = verify(path)
    assert report.whole and report.closed and report.rounds == 20
    assert report.digest.hex() == "6d919f7e7d5639e6d0f372835513ac8cf962bd25b8d3b4191a7b62b0077d38a5"
