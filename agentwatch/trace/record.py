"""The header of a recording: where and how it was made, and the schema that its records follow."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentwatch import __version__
from agentwatch.schema.events import EVENTS, HEADER, RING_HEADER_SIZE, SCHEMA_VERSION
from agentwatch.schema.layout import HEADER_FIELDS
from agentwatch.sources.base import BatchKind
from agentwatch.trace.format import Layout, TraceHeader

if TYPE_CHECKING:
    from agentwatch.kernel.probes import Probes
    from agentwatch.rules.model import RuleSet
    from agentwatch.watch import Options


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


def trace_header(
    agents: Sequence[Options], rules: RuleSet, offset: int, names: dict[int, str], probes: Probes
) -> TraceHeader:
    """What a reader must know before the first record. Records tell of agents that come later."""
    first = agents[0] if agents else None
    return TraceHeader(
        schema_version=SCHEMA_VERSION,
        schema=plain_schema(),
        layouts=LAYOUTS,
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        clock_offset=offset,
        kernel=platform.release(),
        host=socket.gethostname(),
        release=__version__,
        created=time.time_ns(),
        coverage={m.probe: [m.error, m.cost] for m in probes.missing},
        rules_digest=rules.digest,
        mode=first.mode if first else "",
        agents=tuple(agent.name for agent in agents),
        command=first.command if first else (),
        extra={"users": {str(uid): name for uid, name in names.items()}},
    )
