"""Small recordings with alerts in them, made without a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import SCHEMA_VERSION, Type
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.record import LAYOUTS, plain_schema
from agentwatch.trace.writer import TraceWriter
from tests.schema.records import raw

SECOND = 1_000_000_000
BOOTED = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z
BEGAN = 100 * SECOND  # since boot
RULE = """
title: Connect to port {port}
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e{port:04x}
status: test
logsource: {{product: linux, category: network_connection}}
detection:
  one: {{DestinationPort: {port}}}
  condition: one
level: high
"""


def rules_for(folder: Path, port: int = 1) -> RuleSet:
    """A rule that alerts on every connection to this port."""
    path = folder / f"port-{port}.yml"
    path.write_text(RULE.format(port=port))
    return load_rules([path])


def header(rules: RuleSet, **changes: Any) -> TraceHeader:
    """Of a recording that began 100 s after boot, at 22:15:00."""
    told: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "schema": plain_schema(),
        "layouts": LAYOUTS,
        "boot_id": "",
        "clock_offset": BOOTED,
        "kernel": "",
        "host": "",
        "release": "",
        "created": BOOTED + BEGAN,
        "rules_digest": rules.digest,
        "byte_order": "little",
    }
    return TraceHeader(**{**told, **changes})


def connection(number: int, port: int = 1) -> bytes:
    """The record of the n-th connection, `number` seconds after the beginning."""
    address = bytes((127, 0, 0, 1)).ljust(16, b"\0")
    fields: dict[str, Any] = {
        "cookie": number + 1,
        "remote": address,
        "remote_port": port,
        "family": 2,
        "protocol": 6,
    }
    return raw("connect", time=BEGAN + number * SECOND, tgid=100 + number, socktype=1, **fields)


def connections(count: int, port: int = 1, first: int = 0) -> list[Round]:
    """So many connections, a second apart, each a round; the first names the agent."""
    begin = (int(Type.AGENT), BEGAN, 1, 0, 0, "demo", "agentwatch/demo", 1, "monitor")
    made: list[Round] = [] if first else [(Batch(BatchKind.NOTES, pack_notes([begin])),)]
    made += [(Batch(BatchKind.SLOTS, connection(n, port)),) for n in range(first, first + count)]
    return made


def record(
    path: Path,
    rounds: Sequence[Round],
    rules: RuleSet,
    *,
    embed: bool = True,
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A recording of these rounds; with `rotation`, one frame a round."""
    embedded = rules.to_bytes() if embed else b""
    with TraceWriter(path, header(rules, **(changes or {})), rules=embedded, **options) as writer:
        for batches in rounds:
            writer.append(batches)
            if "rotation" in options:
                assert writer.flush()
    return path
