"""Makes raw records as the kernel would, for tests of what reads them."""

from __future__ import annotations

import struct
from typing import Any

from agentwatch.schema.events import BY_NAME, RING_HEADER_SIZE, SLOT_SIZE, Ring
from agentwatch.schema.layout import HEADER_SIZE, body, body_struct

_HEADER = struct.Struct("<QHHIIIQ")
_DEFAULTS = {"str": "", "bytes": b"", "strs": ()}


def raw(name: str, *, time: int = 1, flags: int = 0, agent: int = 1, tgid: int = 100, tid: int | None = None,
        start: int = 7, data: bytes = b"", **fields: Any) -> bytes:  # fmt: skip
    """One kernel record with its ring header, padded as in its ring. Fields left out are zero."""
    event = BY_NAME[name]
    values = [fields.pop(f.name, b"" if f.type.startswith("bytes") else 0) for f in event.fields]
    assert not fields, f"no such fields: {sorted(fields)}"
    content = _HEADER.pack(time, event.number, flags, agent, tgid, tgid if tid is None else tid, start)
    content += body_struct(event).pack(*values)
    if event.ring is Ring.SLOTS:
        content = content.ljust(SLOT_SIZE - RING_HEADER_SIZE, b"\0")
    else:
        content = content.ljust(body(event)[1], b"\0") + data
    assert len(content) >= HEADER_SIZE
    framed = struct.pack("<II", len(content), 0) + content
    return framed + bytes(-len(framed) % 8)
