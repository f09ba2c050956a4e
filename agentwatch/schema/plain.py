"""The schema as plain data, for the header of a trace: what a reader in another language needs."""

from __future__ import annotations

from typing import Any

from agentwatch.schema.events import EVENTS, HEADER, RING_HEADER_SIZE
from agentwatch.schema.layout import HEADER_FIELDS
from agentwatch.sources.base import BatchKind
from agentwatch.trace.format import Layout


def plain_schema() -> dict[str, Any]:
    """Header and events with their fields as [name, type], in the order they are laid out."""
    return {
        "header": [[field.name, field.type] for field in HEADER],
        "events": [
            [event.number, event.name, event.ring.value, [[f.name, f.type] for f in event.fields]]
            for event in EVENTS
        ],
    }


def _layout() -> Layout:
    where = {p.field.name: (RING_HEADER_SIZE + p.offset, p.size) for p in HEADER_FIELDS}
    return Layout(time=where["time"], agent=where["agent"], pid=where["tgid"])


LAYOUTS = {BatchKind.SLOTS: _layout(), BatchKind.RECORDS: _layout()}
"""Where time, agent and process lie in every record of a ring."""
