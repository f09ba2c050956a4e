"""Events as rules see them, the newest first."""

from __future__ import annotations

from typing import Any

from agentwatch.schema.fields import CONNECTION, FIELDS, PROCESS
from agentwatch.tui.text import byte_count
from agentwatch.tui.top.model import (
    WARNING,
    Column,
    Context,
    Line,
    Listing,
    Question,
    Row,
    Screen,
    file_name,
    line,
    line_of_field,
    words,
)

_SHOWN = 500
_FIRST = ("Agent", "Category", "Image", "CommandLine", "DestinationIp", "DestinationPort")
_SHOWN_APART = frozenset(one.name for one in (*PROCESS, *CONNECTION))


class Events(Screen):
    name = "events"
    empty = "No event was seen that a rule looks at."
    newest_first = True
    categories = ""
    """Those that are asked for, parted by commas; all where empty."""
    fields = tuple(dict.fromkeys((*_FIRST, *(one.name for _, fields in FIELDS.values() for one in fields))))

    def requests(self, context: Context) -> list[Question]:
        category = self.categories or None
        return [Question("recent", {"agent": context.agent, "limit": _SHOWN, "category": category})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        agent = () if context.agent else (Column("AGENT", 8, grow=1),)
        return (
            Column("TIME UTC", 12),
            *agent,
            Column("EVENT", 18),
            Column("WHO", 18, grow=1, rank=1),
            Column("WHAT", 34, grow=6),
        )

    def rows(self, context: Context) -> Listing:
        events = context.answers.get("recent", {}).get("events", [])
        return Listing(
            ((str(event["number"]), event) for event in reversed(events)),
            lambda key, event: self._row(key, event, context),
        )

    def remark(self, context: Context) -> str:
        shown = len(context.answers.get("recent", {}).get("events", []))
        seen = context.answers.get("recent", {}).get("last", 0)
        return f"the latest {shown:,} of {seen:,} events" if seen > shown else ""

    def _row(self, key: str, event: Any, context: Context) -> Row:
        cells = (
            (event["time"][11:23], ""),
            *(() if context.agent else ((event["agent"], ""),)),
            (event["category"], ""),
            (who(event), ""),
            (self.what(event), ""),
        )
        fields = {**event["fields"], "Agent": event["agent"], "Category": event["category"]}
        return Row(key, event["agent"], cells, fields, event)

    def what(self, event: Any) -> str:
        """What happened, in a line: of a program its command line, of a GPU its load; of anything else
        what is special to the event, and with whom."""
        fields = event["fields"]
        if event["category"] == "process_creation":
            return fields.get("CommandLine") or ""
        if event["category"] == "gpu":
            return _gpu_use(fields)
        own = [
            f"{name}={words(value)}"
            for name, value in sorted(fields.items(), key=lambda item: item[0] != "Protocol")
            if name not in _SHOWN_APART and value not in (None, [])
        ]
        address, port = fields.get("DestinationIp"), fields.get("DestinationPort")
        if address or port:
            own.append(f"to {fields.get('DestinationHostname') or address or '?'}:{words(port)}")
        return "  ".join(own)

    def summary(self, row: Row, context: Context) -> list[Line]:
        event = row.record
        command, doer = words(event["fields"].get("CommandLine")), who(event)
        return [
            line(
                (event["category"], "bold"),
                f"{f' by {doer}' if doer else ''} of {event['agent']}, record {event['seq']}",
            ),
            line(self.what(event)),
            line("" if self.what(event) == command else command),
            line(
                *((("cut short: " + ", ".join(event["truncated"]), WARNING),) if event["truncated"] else ())
            ),
        ]

    def page(self, row: Row, answer: Any) -> list[Line]:
        event = row.record
        return [
            line((f"{event['category']} of {event['agent']}", "bold")),
            line(),
            line_of_field(("time", event["time"])),
            line_of_field(("record", event["seq"])),
            line_of_field(("cut short", ", ".join(event["truncated"]) or "nothing")),
            line(),
            *(line_of_field(item) for item in event["fields"].items()),
        ]


def who(event: Any) -> str:
    """The process, in short."""
    fields = event["fields"]
    if not fields.get("ProcessId"):
        return ""  # of the host: no process did it
    return f"{file_name(fields.get('Image') or '')}[{fields['ProcessId']}]"


def _gpu_use(fields: Any) -> str:
    """`GPU 0: 97 %, 2.1 GB, for 3 s`, `GPU 0 gone: GPU is lost`."""
    parts = [f"{fields['SmPercent']} %"] if fields.get("SmPercent") is not None else []
    if fields.get("MemoryBytes") is not None:
        parts.append(byte_count(int(fields["MemoryBytes"])))
    if fields.get("SustainedSeconds"):
        parts.append(f"for {fields['SustainedSeconds']} s")
    if fields.get("Reason"):
        parts.append(str(fields["Reason"]))
    kind = words(fields.get("Kind"))
    said = f"GPU {words(fields.get('Device'))}{'' if kind == 'use' else f' {kind}'}"
    return f"{said}: {', '.join(parts)}" if parts else said
