"""The keys of the configuration, walked from the model, and the values that they take."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints


class BadValue(ValueError):
    """A value that a key does not take; its text says what it takes."""


class Key(NamedTuple):
    """One key of a table: a value, a table (`table`), or an array of tables (`table` and `many`).

    `type` is bool, int, str or Path; `many` makes it a list, `optional` lets it have no value.
    """

    name: str
    type: type
    default: Any
    meta: types.MappingProxyType[Any, Any]
    many: bool = False
    optional: bool = False

    @property
    def table(self) -> bool:
        return is_dataclass(self.type)

    @property
    def doc(self) -> str:
        return str(self.meta["doc"] or inspect.cleandoc(self.type.__doc__ or ""))

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        if self.meta["choices"]:
            return "one of " + ", ".join(self.meta["choices"])
        one, several = _WORDS[self.type]
        low, high = self.meta["minimum"], self.meta["maximum"]
        span = f" from {low}" * (low is not None) + f" to {high}" * (high is not None)
        return f"a list of {several}" if self.many else one + span


_WORDS = {
    bool: ("true or false", ""),
    int: ("a whole number", "whole numbers"),
    str: ("a text", "texts"),
    Path: ("an absolute path", "absolute paths"),
}


@cache
def keys(kind: type) -> dict[str, Key]:
    """The keys of a table, in the model's order."""
    hints = get_type_hints(kind)
    return {one.name: _key(one, hints[one.name]) for one in fields(kind)}


def _key(one: Field[Any], hint: Any) -> Key:
    many = optional = False
    if get_origin(hint) is tuple:
        many, hint = True, get_args(hint)[0]
    elif get_origin(hint) in (Union, types.UnionType):
        optional, hint = True, next(arm for arm in get_args(hint) if arm is not type(None))
    return Key(one.name, hint, one.default, one.metadata, many, optional)


def leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """All values below a table with their dotted paths; arrays of tables are left out."""
    for key in keys(kind).values():
        if not key.table:
            yield prefix + key.name, key
        elif not key.many:
            yield from leaves(key.type, f"{prefix}{key.name}.")


def parse(key: Key, value: Any) -> Any:
    """A value from TOML as the model has it. Raises `BadValue`."""
    if not key.many:
        return _one(key, value)
    if not isinstance(value, list):
        raise BadValue(f"takes {key.takes}, not {_told(value)}")
    return tuple(_one(key, item) for item in value)


def parse_text(key: Key, text: str) -> Any:
    """A value from a text, as in environment variables; lists are parted by commas. Raises `BadValue`."""
    plain: list[Any] = [part.strip() for part in text.split(",") if part.strip()] if key.many else [text]
    if key.type is bool:
        plain = [{"true": True, "false": False}.get(item, item) for item in plain]
    elif key.type is int:
        plain = [int(item) if re.fullmatch(r"-?[0-9]{1,18}", item, re.ASCII) else item for item in plain]
    return parse(key, plain if key.many else plain[0])


def _one(key: Key, value: Any) -> Any:
    if not _is_exactly(value, str if key.type is Path else key.type):
        raise BadValue(f"takes {key.takes}, not {_told(value)}")
    meta = key.meta
    if meta["choices"] and value not in meta["choices"]:
        raise BadValue(f"takes {key.takes}, not {_told(value)}")
    if meta["pattern"] and not re.fullmatch(meta["pattern"], value):
        raise BadValue(f"{_told(value)} has not the form of it: {meta['doc']}")
    low, high = meta["minimum"], meta["maximum"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise BadValue(f"takes {key.takes}, not {_told(value)}")
    if key.type is Path:
        if not value.startswith("/") or "\0" in value:
            raise BadValue(f"takes {key.takes}, not {_told(value)}")
        return Path(value)
    return value


def _is_exactly(value: Any, kind: type) -> bool:
    return value.__class__ is kind  # true is no number here


def _told(value: Any) -> str:
    return repr(value)[:200]


def plain(value: Any) -> Any:
    """A value of the model as TOML and JSON have it."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
