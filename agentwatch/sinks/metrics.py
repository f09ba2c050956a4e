"""The metrics: their names, types and meaning in one table; the text format; the documentation.

python -m agentwatch.sinks.metrics > docs/metrics.md
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

Samples = Mapping[str, Sequence[Sequence[Any]]]
"""Values by the metric's name: rows of the labels' values, in the table's order, and the value."""


class Metric(NamedTuple):
    """One metric. A counter only grows until its process starts again."""

    name: str
    type: str  # counter or gauge
    doc: str
    labels: tuple[str, ...] = ()


METRICS: Final = (
    Metric("agentwatch_info", "gauge", "1; the release, and the digest of the rules in force",
           ("version", "rules")),
    Metric("agentwatch_agents", "gauge", "agents under watch, by what they do", ("state",)),
    Metric("agentwatch_records_total", "counter", "records that were folded"),
    Metric("agentwatch_events_total", "counter", "events that rules saw"),
    Metric("agentwatch_alerts_total", "counter", "alerts, by the level of their rule", ("level",)),
    Metric("agentwatch_lost_total", "counter",
           "events lost because a ring was full, by type; `unreadable` are records nobody could read",
           ("type",)),
    Metric("agentwatch_missing_probes", "gauge", "probes that this kernel refused: `agentwatch doctor`"),
    Metric("agentwatch_lag_seconds", "gauge",
           "longest delay in the last second: from the newest record of a round to the end of its fold"),
    Metric("agentwatch_newest_record_age_seconds", "gauge",
           "time since the newest record that was folded; grows while agents do nothing"),
    Metric("agentwatch_ring_fill_ratio", "gauge", "what waits in a ring, of its size", ("ring",)),
    Metric("agentwatch_link_backlog_bytes", "gauge", "bytes that wait for the front process"),
    Metric("agentwatch_link_dropped_total", "counter", "messages that the front did not take in time"),
    Metric("agentwatch_program_run_seconds_total", "counter",
           "run time of an eBPF program, while the kernel timed it (`probe_times`)", ("program",)),
    Metric("agentwatch_program_runs_total", "counter",
           "runs of an eBPF program, while the kernel timed it (`probe_times`)", ("program",)),
    Metric("agentwatch_resident_memory_bytes", "gauge", "resident memory of a process", ("process",)),
    Metric("agentwatch_core_silent_seconds", "gauge",
           "time since the core process last told its metrics, which it does every second"),
    Metric("agentwatch_sink_sent_total", "counter", "alerts that a sink has delivered", ("sink",)),
    Metric("agentwatch_sink_dropped_total", "counter",
           "alerts that a sink had no room for, or that its receiver refused", ("sink",)),
    Metric("agentwatch_sink_queued", "gauge", "alerts that wait for a sink", ("sink",)),
    Metric("agentwatch_sink_failing", "gauge", "1 while a sink does not work", ("sink",)),
    Metric("agentwatch_control_clients", "gauge", "clients of the control socket"),
    Metric("agentwatch_control_dropped_total", "counter",
           "alerts and events that clients were too slow for"),
)  # fmt: skip

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def render(samples: Samples) -> str:
    """Prometheus's text format, version 0.0.4. Metrics without samples are left out."""
    return "".join(_lines(samples))


def _lines(samples: Samples) -> Iterator[str]:
    for metric in METRICS:
        rows = samples.get(metric.name, ())
        if not rows:
            continue
        yield f"# HELP {metric.name} {_escaped(metric.doc)}\n# TYPE {metric.name} {metric.type}\n"
        for *values, value in rows:
            pairs = zip(metric.labels, values, strict=True)
            labels = ",".join(f'{name}="{_escaped(text, quote=True)}"' for name, text in pairs)
            yield f"{metric.name}{{{labels}}} {value}\n" if labels else f"{metric.name} {value}\n"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


_HEAD = """# Metrics

Made from `agentwatch/sinks/metrics.py` by `python -m agentwatch.sinks.metrics`; do not edit.

The Prometheus endpoint and the OpenTelemetry sink tell these (see [sinks.md](sinks.md)). The core
process measures once a second; what concerns sinks and clients is measured when asked.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def markdown() -> str:
    """The documentation, as a Markdown document."""
    rows = [
        f"| `{m.name}` | {m.type} | {', '.join(f'`{label}`' for label in m.labels)} | {m.doc} |\n"
        for m in METRICS
    ]
    return _HEAD + "".join(rows)


def resident_bytes() -> int:
    """Resident memory of this process (proc_pid_statm(5))."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    sys.stdout.write(markdown())
