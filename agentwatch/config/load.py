"""Loading: flag over environment over drop-ins over the main file over defaults.

The main file is `/etc/agentwatch/agentwatch.toml`, its drop-ins `agentwatch.d/*.toml` beside it, in
the order of their names. An environment variable is `AGENTWATCH_` and the key's path in capitals:
`AGENTWATCH_POLICY_MODE`. Tables of an array add up; one of the same `id` takes the earlier's place.
All that is wrong is told at once, with file and key.
"""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentwatch.config.keys import BadValue, Key, keys, leaves, parse, parse_text
from agentwatch.config.model import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAIN: Final = Path("/etc/agentwatch/agentwatch.toml")
PREFIX: Final = "AGENTWATCH_"
_LIMIT: Final = 1 << 20  # bytes of a file


class Problem(NamedTuple):
    """One thing that is wrong: `where` is a file, a variable or a flag, `key` is dotted, or empty."""

    where: str
    key: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class ConfigError(ValueError):
    """A configuration that cannot be used. `problems` is all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Setting(NamedTuple):
    """A value in force and where it comes from."""

    key: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, its files, and every value with its origin."""

    config: Config
    settings: tuple[Setting, ...]
    files: tuple[Path, ...]


def load(
    main: Path | None = None, flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:  # fmt: skip
    """The configuration in force. Raises `ConfigError`.

    `main` must be there, only the default one need not. `flags` maps dotted keys to values of the
    model, `environment` is that of the process unless it is given.
    """
    merger = _Merger()
    files = tuple(_files(merger, main))
    for path in files:
        merger.file(path)
    merger.environment(os.environ if environment is None else environment)
    for key, value in (flags or {}).items():
        merger.put(key, value, "flag")
    config = merger.build(Config)
    if merger.problems:
        raise ConfigError(merger.problems)
    return Loaded(config, tuple(merger.settings), files)


def _files(merger: _Merger, main: Path | None) -> Iterator[Path]:
    path = main or MAIN
    if main is not None or path.exists():
        yield path
    folder = path.with_suffix(".d")
    if folder.is_dir():
        if reason := _distrust(folder.stat()):
            merger.problems.append(Problem(str(folder), "", reason))
            return
        yield from sorted(one for one in folder.glob("*.toml") if not one.name.startswith("."))


def _distrust(found: os.stat_result) -> str:
    """Why root does not believe a file or folder; empty."""
    if os.geteuid() != 0:
        return ""
    if found.st_uid != 0:
        return f"it belongs to user {found.st_uid}, who could make a root daemon do anything: chown root"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others than root may write it: chmod go-w"
    return ""


def _read(path: Path) -> dict[str, Any]:
    """The tables of a file. Raises `OSError`, and `ValueError` for what is no TOML or not to be believed."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if reason := _distrust(found):
            raise ValueError(reason)
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise ValueError(f"it is larger than {_LIMIT >> 20} MiB")
    try:
        tables: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not in UTF-8") from None
    except RecursionError:
        raise ValueError("it nests too deeply") from None
    return tables


@dataclass
class _Merger:
    """Values by their dotted paths; tables of an array by `ARRAY.ID.`. Later ones replace earlier ones."""

    problems: list[Problem] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    _values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    _ids: dict[str, dict[str, str]] = field(default_factory=dict)  # of the arrays, in order: id -> origin

    def put(self, key: str, value: Any, origin: str) -> None:
        self._values[key] = value, origin

    def file(self, path: Path) -> None:
        try:
            tables = _read(path)
        except (OSError, ValueError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            self.problems.append(Problem(str(path), "", reason))
            return
        self._table(Config, tables, "", str(path))

    def environment(self, variables: Mapping[str, str]) -> None:
        known = {PREFIX + path.upper().replace(".", "_"): (path, key) for path, key in leaves(Config)}
        sections = tuple(f"{PREFIX}{key.name.upper()}_" for key in keys(Config).values() if key.table)
        for name in sorted(variables):
            if name in known:
                path, key = known[name]
                try:
                    self.put(path, parse_text(key, variables[name]), f"environment {name}")
                except BadValue as error:
                    self._wrong(f"environment {name}", path, str(error))
            elif name.startswith(sections):
                self._wrong(f"environment {name}", "", _unknown(name, known))

    def _wrong(self, where: str, key: str, reason: str) -> None:
        self.problems.append(Problem(where, key, reason))

    def _table(self, kind: type, table: Mapping[str, Any], prefix: str, origin: str) -> None:
        known = keys(kind)
        for name, value in table.items():
            key, path = known.get(name), prefix + name
            if key is None:
                self._wrong(origin, path, _unknown(name, known))
            elif not key.table:
                try:
                    self.put(path, parse(key, value), origin)
                except BadValue as error:
                    self._wrong(origin, path, str(error))
            elif key.many:
                self._array(key, value, path, origin)
            elif isinstance(value, dict):
                self._table(key.type, value, f"{path}.", origin)
            else:
                self._wrong(origin, path, f"is a table: [{path}]")

    def _array(self, key: Key, value: Any, path: str, origin: str) -> None:
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self._wrong(origin, path, f"is an array of tables: [[{path}]]")
            return
        here: set[str] = set()
        for place, table in enumerate(value, 1):
            try:
                id = parse(keys(key.type)["id"], table.get("id", ""))
            except BadValue:
                self._wrong(origin, f"{path}, table {place}", f"needs an id: {keys(key.type)['id'].doc}")
                continue
            if id in here:
                self._wrong(origin, f"{path}.{id}", "stands here twice")
            here.add(id)
            prefix = f"{path}.{id}."
            for old in [old for old in self._values if old.startswith(prefix)]:
                del self._values[old]
            self._ids.setdefault(path, {})[id] = origin
            self._table(key.type, table, prefix, origin)

    def build(self, kind: type, prefix: str = "", fallback: str = "", where: str = "") -> Any:
        """A table from its values, those of the table `fallback`, and defaults. `where` it stands."""
        made = {}
        for name, key in keys(kind).items():
            path = prefix + name
            if not key.table:
                made[name] = self._value(key, path, fallback and fallback + name)
            elif key.many:
                inherits = key.meta["inherits"] and f"{key.meta['inherits']}."
                made[name] = tuple(
                    self.build(key.type, f"{path}.{id}.", inherits, origin)
                    for id, origin in self._ids.get(path, {}).items()
                )
            else:
                made[name] = self.build(key.type, f"{path}.", fallback and f"{fallback}{name}.", where)
        built = kind(**made)
        if reason := getattr(built, "flaw", str)():
            self._wrong(where, prefix.rstrip("."), reason)
        return built

    def _value(self, key: Key, path: str, fallback: str) -> Any:
        assert key.default is not MISSING
        value, origin = self._values.get(path) or self._values.get(fallback) or (key.default, "default")
        self.settings.append(Setting(path, value, origin))
        return value


def _unknown(name: str, known: Mapping[str, Any]) -> str:
    nearest = difflib.get_close_matches(name, known, 1)
    return f"is unknown; is it {nearest[0]}?" if nearest else "is unknown; known are: " + ", ".join(known)
