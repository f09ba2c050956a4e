"""How much of what happens agentwatch sees: losses, lag, probes that are missing, sinks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentwatch.tui.top.model import (
    WARNING,
    Column,
    Context,
    Line,
    Listing,
    Question,
    Row,
    Screen,
    line,
    many,
)

_GOOD, _BAD = ("ok", ""), ("!", WARNING)
_SINK_ILL = "What is queued is sent again, what is dropped is gone. See [sinks] in the configuration."
_LATE_US = 50_000


class Health(Screen):
    name = "health"
    empty = "Nothing is known yet."
    fields = ("Kind", "What", "Count")

    def requests(self, context: Context) -> list[Question]:
        return [Question("health", {})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        return Column("", 2), Column("WHAT", 10), Column("", 40, grow=1)

    def rows(self, context: Context) -> Listing:
        status, health = context.answers.get("status"), context.answers.get("health")
        if status is None or health is None:
            return Listing()
        rows = (_row(number, *item) for number, item in enumerate(_items(status, health)))
        return Listing((row.key, row) for row in rows)

    def summary(self, row: Row, context: Context) -> list[Line]:
        return [line(row.cells[2]), line(str(row.record["more"]))]

    def page(self, row: Row, answer: Any) -> list[Line]:
        return self.summary(row, Context())


Item = tuple[bool, str, str, str]
"""Whether it is well, what it is about, what is said, and what that means."""


def _items(status: Any, health: Any) -> Iterator[Item]:
    for remark in status.get("remarks", ()):
        yield False, "recording", remark, "What is missing may have changed what is told."
    lost = health["lost"]
    if not lost:
        yield True, "loss", "nothing was lost", "Every event that the kernel reported was seen."
    for one in lost:
        whose = "all agents" if one["agent"] == "host" else one["agent"]
        yield (
            False,
            "loss",
            f"{one['count']:,} {one['what']} events of {whose}",
            ("They came faster than they were read, or could not be read: alerts say so."),
        )
    if not status["coverage"]:
        yield (
            True,
            "coverage",
            "every probe is attached",
            "All that this release can see on a host, it sees here.",
        )
    for gap in status["coverage"]:
        yield False, "coverage", f"{gap['probe']}: {gap['cost']}", gap["error"]
    if probes := health.get("probes"):
        yield True, "probes", f"{len(probes)} programs are loaded in the kernel", ", ".join(probes)
    if health["unreadable"]:
        yield False, "records", f"{health['unreadable']:,} cannot be read", "They were passed over."
    if "lag_us" in health:
        lag = health["lag_us"]
        yield (
            lag < _LATE_US,
            "lag",
            f"{lag / 1000:.1f} ms from event to verdict",
            "Of the latest round of events.",
        )
    yield True, "records", f"{status['records']:,} records, {status['events']:,} events for rules", ""
    rules = status["rules"]
    yield True, "rules", f"{rules['count']:,} in force, digest {rules['digest'][:12]}", ""
    if health["excepted"]:
        text = f"{health['excepted']:,} matches were covered by exceptions"
        yield True, "rules", text, "See the files of exceptions in the configuration."
    for name, sink in sorted(status.get("sinks", {}).items()):
        well = not (sink.get("dropped") or sink.get("error"))
        yield well, "sink", f"{name}: {_sink(sink)}", "" if well else _SINK_ILL
    if "pid" in status:
        since = f"{status['since'][:19].replace('T', ' ')} UTC"
        yield (
            True,
            "daemon",
            f"{status['version']}, process {status['pid']}, since {since}",
            f"kernel {status['kernel']}",
        )


def _sink(sink: Any) -> str:
    counts = [f"{many(sink.get('sent', 0), 'alert')} sent"]
    counts += [f"{sink[name]:,} {name}" for name in ("queued", "dropped") if sink.get(name)]
    return ", ".join(counts) + (f"; {sink['error']}" if sink.get("error") else "")


def _row(number: int, good: bool, about: str, text: str, more: str) -> Row:
    style = "" if good else WARNING
    fields = {"Kind": about, "What": text}
    return Row(
        f"{number} {about}", "", (_GOOD if good else _BAD, (about, ""), (text, style)), fields, {"more": more}
    )
