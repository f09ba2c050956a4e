"""The configuration as a JSON schema (draft 2020-12), for editors and other checkers of TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agentwatch.config.keys import Key, keys, plain
from agentwatch.config.model import Config

_TYPES: Final = {bool: "boolean", int: "integer", str: "string", Path: "string"}


def json_schema() -> dict[str, Any]:
    """The schema, made from the model."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_table(Config)}


def _table(kind: type) -> dict[str, Any]:
    properties = {name: _key(key) for name, key in keys(kind).items()}
    made: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": properties}
    return made


def _key(key: Key) -> dict[str, Any]:
    if key.table:
        one = _table(key.type)
        if key.many:
            return {"description": key.doc, "type": "array", "items": {**one, "required": ["id"]}}
        return {"description": key.doc, **one}
    value = _value(key)
    if key.many:
        value = {"type": "array", "items": value}
    default = {} if key.default is None else {"default": plain(key.default)}
    return {"description": key.doc, **value, **default}


def _value(key: Key) -> dict[str, Any]:
    meta = key.meta
    pattern = f"^(?:{meta['pattern']})$" if meta["pattern"] else "^/" if key.type is Path else None
    limits = {
        "enum": list(meta["choices"]) or None,
        "pattern": pattern,
        "minimum": meta["minimum"],
        "maximum": meta["maximum"],
    }
    return {
        "type": _TYPES[key.type],
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
