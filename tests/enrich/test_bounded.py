"""What is let go of a table that is full."""

from __future__ import annotations

from agentwatch.enrich.bounded import put


def test_what_was_put_longest_ago_goes() -> None:
    items: dict[str, int] = {}
    assert put(items, "a", 1, 2) == put(items, "b", 2, 2) == put(items, "a", 3, 2) == []
    assert put(items, "c", 4, 2) == [2]
    assert items == {"a": 3, "c": 4}
