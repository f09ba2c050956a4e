"""How the dataclasses of the configuration declare their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def setting(
    doc: str,
    default: Any,
    *,
    choices: Sequence[str] = (),
    pattern: str = "",
    minimum: int | None = None,
    maximum: int | None = None,
    live: bool = True,
) -> Any:
    """A key. `pattern` is what a text (each of a list) must match as a whole, `live` whether a reload
    can change it."""
    return field(
        default=default,
        metadata={
            "doc": doc,
            "choices": tuple(choices),
            "pattern": pattern,
            "minimum": minimum,
            "maximum": maximum,
            "live": live,
        },
    )


def section(kind: type, doc: str = "") -> Any:
    """A table. It is explained by the docstring of its dataclass unless `doc` says more."""
    return field(default_factory=kind, metadata={"doc": doc})


def tables(doc: str, inherits: str = "") -> Any:
    """An array of tables. What one does not say, the section named by `inherits` says for it."""
    return field(default=(), metadata={"doc": doc, "inherits": inherits})
