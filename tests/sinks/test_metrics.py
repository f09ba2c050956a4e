from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.sinks.metrics import METRICS, Samples, markdown, render, resident_bytes

ROOT = Path(__file__).parent.parent.parent


def test_the_documentation_is_made_from_the_table() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown(), (
        "python -m agentwatch.sinks.metrics > docs/metrics.md"
    )


def test_names_are_those_that_prometheus_wants() -> None:
    for metric in METRICS:
        assert re.fullmatch("agentwatch_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert metric.type in ("counter", "gauge")


def test_the_text_format() -> None:
    samples: Samples = {
        "agentwatch_records_total": [[12]],
        "agentwatch_agents": [["running", 2], ["paused", 0]],
        "agentwatch_lag_seconds": [[0.25]],
        "agentwatch_lost_total": [],
    }
    lines = render(samples).splitlines()
    assert [line for line in lines if not line.startswith("# HELP")] == [
        "# TYPE agentwatch_agents gauge",
        'agentwatch_agents{state="running"} 2',
        'agentwatch_agents{state="paused"} 0',
        "# TYPE agentwatch_records_total counter",
        "agentwatch_records_total 12",
        "# TYPE agentwatch_lag_seconds gauge",
        "agentwatch_lag_seconds 0.25",
    ]


@given(st.text())
def test_a_label_holds_anything(text: str) -> None:
    last = render({"agentwatch_sink_sent_total": [[text, 1]]}).removesuffix("\n").split("\n")[-1]
    found = re.fullmatch(r'agentwatch_sink_sent_total\{sink="((?:[^"\\\n]|\\[\\n"])*)"\} 1', last)
    assert found
    assert re.sub(r"\\(.)", lambda one: {"n": "\n"}.get(one[1], one[1]), found[1]) == text


def test_resident_memory_is_in_bytes() -> None:
    assert 1 << 20 < resident_bytes() < 1 << 34
