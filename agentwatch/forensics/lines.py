"""JSON lines: every row of every table as an object that names its table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from agentwatch.forensics.tables import TABLES, Column, Row
from agentwatch.sinks.alerts import timestamp


class Lines:
    """Writes rows as lines of ASCII. Times are RFC 3339, bytes hexadecimal digits."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, host: str, table: str, rows: Iterable[Row]) -> None:
        """Each row with its table and its host in it."""
        for row in rows:
            plain = {"table": table, "host": host}
            columns = zip(TABLES[table], row, strict=True)
            plain.update((column.name, _plain(column, value)) for column, value in columns)
            self._write(json.dumps(plain, default=str).encode("ascii") + b"\n")


def _plain(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.kind == "time":
        return timestamp(value, 0)
    if column.kind == "bytes":
        return value.hex()
    return json.loads(value) if column.kind == "json" else value
