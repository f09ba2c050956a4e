"""Tables that stay within a limit.

A plain dictionary looks for its first entry past all those that were removed there: a table that
stays at its limit for long is better an `OrderedDict`.
"""

from __future__ import annotations

from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


def put(items: dict[_K, _V], key: _K, value: _V, limit: int) -> list[_V]:
    """Adds the newest item. Returns what this drops over the limit: the value put longest ago."""
    items.pop(key, None)
    items[key] = value
    return [items.pop(next(iter(items)))] if len(items) > limit else []
