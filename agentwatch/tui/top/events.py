"""Events as rules see them, the newest first."""

from __future__ import annotations

from typing import Any

from agentwatch.schema.fields import CONNECTION, FIELDS, PROCESS
from agentwatch.tui.top.model import (
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
_SHOWN_APART = frozenset(one.name for one in (*PROCESS, *CONNECTION))


class Events(Screen):
    name = "events"
    empty = "No event was seen that a rule looks at."
    newest_first = True
    categories = ""
    """Those that are asked for, parted by commas; all where empty."""
    fields = frozenset(("Agent", "Category", *(one.name for _, fields in FIELDS.values() for one in fields)))

    def requests(self, context: Context) -> list[Question]:
        category = self.categories or None
        return [Question("recent", {"agent": context.agent, "limit": _SHOWN, "category": category})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        agent = () if context.agent else (Column("AGENT", 8, grow=1),)
        return (
            Column("TIME UTC", 12),
            *agent,
            Column("EVENT", 18),
            Column("WHO", 18, grow=1),
            Column("WHAT", 20, grow=6),
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
            (event["category"], "cyan"),
            (who(event), ""),
            (self.what(event), ""),
        )
        fields = {**event["fields"], "Agent": event["agent"], "Category": event["category"]}
        return Row(key, event["agent"], cells, fields, event)

    def what(self, event: Any) -> str:
        """What happened, in a line: what is special to the event, and with whom; or the command line."""
        fields = event["fields"]
        own = [
            f"{name}={words(value)}"
            for name, value in fields.items()
            if name not in _SHOWN_APART and value not in (None, [])
        ]
        address, port = fields.get("DestinationIp"), fields.get("DestinationPort")
        if address or port:
            own.append(f"to {fields.get('DestinationHostname') or address or '?'}:{words(port)}")
        return "  ".join(own) or fields.get("CommandLine") or ""

    def summary(self, row: Row, context: Context) -> list[Line]:
        event = row.record
        command = words(event["fields"].get("CommandLine"))
        return [
            line((event["category"], "bold"), f" by {who(event)} of {event['agent']}, record {event['seq']}"),
            line(self.what(event)),
            line("" if self.what(event) == command else command),
            line(
                *(
                    (("cut short: " + ", ".join(event["truncated"]), "bold yellow"),)
                    if event["truncated"]
                    else ()
                )
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
    return f"{file_name(fields.get('Image') or '')}[{fields.get('ProcessId', '?')}]"
