"""Loading rules: files in, `RuleSet` out, warm in a few milliseconds.

pySigma parses in a child process, so that the daemon never carries it. The outcome is kept in a
cache folder that only its owner can write; the key covers every byte that went in, the version
of pySigma, and the code that lowers its rules.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgpack  # type: ignore[import-untyped]

import agentwatch
from agentwatch.rules.model import IR_VERSION, Problem, RuleError, RuleSet, digest

SUFFIXES = (".yml", ".yaml")
LISTS = "lists"
MAX_FILE = 4 << 20

# The code that decides what becomes of a file of rules.
_LOWERING = (
    "rules/lower.py",
    "rules/documents.py",
    "rules/expr.py",
    "rules/logic.py",
    "rules/logsource.py",
    "rules/exceptions.py",
    "rules/model.py",
    "schema/fields.py",
)
# How many sets the cache keeps: each edit of a rule makes a new one.
KEPT = 16


@dataclass(frozen=True, slots=True)
class _Files:
    """All that goes into a rule set: path or name -> content."""

    rules: dict[str, bytes]
    lists: dict[str, bytes]
    exceptions: dict[str, bytes]

    @property
    def digest(self) -> str:
        """That of the set that they make."""
        return digest([*self.rules.values(), *self.lists.values(), *self.exceptions.values()])


def load_rules(paths: Sequence[Path], cache: Path | None = None, exceptions: Sequence[Path] = ()) -> RuleSet:
    """Rules of files and folders (searched for *.yml and *.yaml, hidden ones left out).

    The words of `%NAME%` come from `lists/NAME.txt` in every folder given, or beside the file or
    folder given; those of several are joined. `cache` is the cache folder, by default
    `default_cache()`. `exceptions` are operators' files (see
    `agentwatch.rules.exceptions`). Raises `RuleError` naming file, line and reason.
    """
    files = _read(paths, exceptions)
    folder = default_cache() if cache is None else cache
    kept = folder / f"{_key(files)}.msgpack"
    found = _from_cache(folder, kept)
    if found is None or found.digest != files.digest:
        found, problems = _parse(files)
        if problems:
            raise RuleError(*problems)
        _to_cache(folder, kept, found.to_bytes())
    return found


def survey_rules(paths: Sequence[Path]) -> tuple[RuleSet, tuple[Problem, ...]]:
    """What of foreign rules can be evaluated, and what is wrong with the others."""
    return _parse(_read(paths, ()))


def default_cache() -> Path:
    """`/var/cache/agentwatch/rules` for root, else under the user's XDG cache folder."""
    if os.geteuid() == 0:
        return Path("/var/cache/agentwatch/rules")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentwatch" / "rules"


def _read(paths: Sequence[Path], exceptions: Sequence[Path]) -> _Files:
    found = _Files({}, {}, {})
    try:
        for path in paths:
            for file in _walk(path):
                found.rules[str(file)] = _bytes(file)
        for words in _lists(paths):
            found.lists[words.stem] = found.lists.get(words.stem, b"") + _bytes(words) + b"\n"
        for path in exceptions:
            found.exceptions[str(path)] = _bytes(path)
    except OSError as error:
        raise RuleError(Problem(str(error.filename), 1, error.strerror or str(error))) from error
    return found


def _lists(paths: Sequence[Path]) -> list[Path]:
    """Files of words in the folders given, and beside the files and folders given, each once."""
    folders = [folder for path in paths for folder in _places(path)]
    files = [words.resolve() for folder in folders for words in sorted(folder.glob("*.txt"))]
    return list(dict.fromkeys(files))


def _places(path: Path) -> Iterator[Path]:
    """Where the lists of a path lie. Beside it, what another user put there is no list of its rules."""
    yield path / LISTS
    place = path.absolute()
    for above in (place.parent, place.parent.parent) if path.is_file() else (place.parent,):
        folder = above / LISTS
        if folder.is_dir() and folder.stat().st_uid == path.stat().st_uid:
            yield folder


def _walk(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix in SUFFIXES and not hidden and file.is_file():
            yield file


def _bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        content = stream.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise RuleError(Problem(str(file), 1, f"larger than {MAX_FILE >> 20} MiB"))
    return content


def _key(files: _Files) -> str:
    key = hashlib.sha256(f"{IR_VERSION} {_pysigma_version()}".encode())
    for source in _LOWERING:
        key.update(hashlib.sha256((Path(agentwatch.__file__).parent / source).read_bytes()).digest())
    for kind in (files.rules, files.lists, files.exceptions):
        key.update(f"{len(kind)} files".encode())
        for name, content in sorted(kind.items()):
            key.update(f"\0{len(name)}\0{name}\0{len(content)}\0".encode("utf-8", "surrogatepass"))
            key.update(content)
    return key.hexdigest()


def _pysigma_version() -> str:
    """From the name of its metadata folder: `importlib.metadata` costs 15 ms to import."""
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    name = entry.name.lower()
                    if name.startswith("pysigma-") and name.endswith(".dist-info"):
                        return name
        except OSError:
            continue
    return "unknown"


def _parse(files: _Files) -> tuple[RuleSet, tuple[Problem, ...]]:
    import subprocess  # costs a warm start 5 ms  # noqa: PLC0415

    # The child runs from / with this very package, so that no folder of an agent can offer
    # modules to import. The names that it sees are the files' own, for its messages.
    root = str(Path(agentwatch.__file__).parent.parent)
    request = {"files": files.rules, "lists": files.lists, "exceptions": files.exceptions}
    child = subprocess.run(
        [sys.executable, "-m", "agentwatch.rules.lower"],
        input=msgpack.packb(request, unicode_errors="surrogatepass"),
        capture_output=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    if child.returncode != 0:
        last = child.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise RuleError(
            Problem(", ".join(sorted(files.rules)) or "-", 1, f"the parser failed: {' '.join(last)}")
        )
    answer = msgpack.unpackb(child.stdout, unicode_errors="surrogatepass")
    return RuleSet.from_bytes(answer["rules"]), tuple(Problem(*problem) for problem in answer["problems"])


def _from_cache(folder: Path, kept: Path) -> RuleSet | None:
    """What the cache holds, unless another user could have written it or it is damaged."""
    try:
        if not _trusted(os.lstat(folder), stat.S_ISDIR):
            return None
        descriptor = os.open(kept, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not _trusted(os.fstat(descriptor), stat.S_ISREG):
                return None
            return RuleSet.from_bytes(stream.read())
    except (OSError, ValueError):
        return None


def _to_cache(folder: Path, kept: Path, data: bytes) -> None:
    """Writes by rename. A cache that cannot be trusted or written is done without."""
    fresh = kept.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _trusted(os.lstat(folder), stat.S_ISDIR):
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "wb") as stream:
            stream.write(data)
        fresh.rename(kept)
        for old in sorted(folder.glob("*.msgpack"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()
    except OSError:
        with suppress(OSError):
            fresh.unlink()


def _trusted(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    others = stat.S_IWGRP | stat.S_IWOTH
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & others
