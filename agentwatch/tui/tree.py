"""Rows of processes as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def tree(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows of `ps` with their depth, parents before children."""
    known = {(row["agent"], row["pid"]) for row in rows}
    children: dict[tuple[str, int] | None, list[dict[str, Any]]] = {}
    for row in rows:
        above = row["agent"], row["parent"]
        is_child = above in known and row["parent"] != row["pid"]
        children.setdefault(above if is_child else None, []).append(row)
    stack = [(row, 0) for row in reversed(children.pop(None, []))]
    while stack:
        row, depth = stack.pop()
        yield row, depth
        below = children.pop((row["agent"], row["pid"]), [])
        stack += [(child, depth + 1) for child in reversed(below)]
