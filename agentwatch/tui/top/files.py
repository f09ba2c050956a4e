"""Files that are watched: who read, wrote, renamed or removed them."""

from __future__ import annotations

from typing import Any

from agentwatch.tui.top.events import Events, who
from agentwatch.tui.top.model import Column, Context, Row, clock, words


class Files(Events):
    """What was done to files that are watched."""

    name = "files"
    empty = "No watched file was touched (credentials, shell profiles, cron, units, sockets, ...)."
    categories = "file_event,file_access"

    def columns(self, context: Context) -> tuple[Column, ...]:
        agent = () if context.agent else (Column("AGENT", 8, grow=1),)
        return (
            Column("TIME UTC", 8),
            *agent,
            Column("ACCESS", 7),
            Column("FILE", 24, grow=6),
            Column("WHO", 18, grow=1),
            Column("USER", 8, rank=1),
        )

    def remark(self, context: Context) -> str:
        return ""

    def _row(self, key: str, event: Any, context: Context) -> Row:
        fields = event["fields"]
        row = super()._row(key, event, context)
        cells = (
            (clock(event["time"]), ""),
            *(() if context.agent else ((event["agent"], ""),)),
            (words(fields.get("Access")), "bold"),
            (self.what(event), ""),
            (who(event), ""),
            (words(fields.get("User")), ""),
        )
        return row._replace(cells=cells)

    def what(self, event: Any) -> str:
        fields = event["fields"]
        source = fields.get("SourceFilename")
        return f"{words(fields.get('TargetFilename'))}{f'  from {source}' if source else ''}"
