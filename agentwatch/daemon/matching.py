"""Who is an agent: processes and cgroups against the selectors of the configuration.

What a process says of itself (arguments, environment, files in its folder) is its own word: good for
finding those whose launcher is trusted, no proof against one that does not want to be found.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import re2  # type: ignore[import-untyped]

from agentwatch.config.model import AgentTable, Selector
from agentwatch.daemon.cgroup_names import names
from agentwatch.sources.files import read_agent_file

_ENVIRONMENT: Final = 256 << 10  # bytes read
_ARGUMENTS: Final = 4096  # bytes read
_ANCESTORS: Final = 64
_NAME_LIMIT: Final = 60
_INTERPRETER: Final = re.compile(
    r"(?:python|pypy|node|nodejs|deno|bun|perl|ruby|php|lua|sh|bash|dash|zsh)[0-9.]*"
)


@lru_cache(maxsize=1024)
def _pattern(glob: str, separator: str) -> Any:
    one = f"[^{separator}]" if separator else "."
    wild = {"**": ".*", "*": f"{one}*", "?": one}
    parts = re.split(r"(\*\*|\*|\?)", glob)
    # RE2: the texts are hostile, and there is no telling what an operator's pattern costs elsewhere.
    return re2.compile("(?s)" + "".join(wild.get(part) or re2.escape(part) for part in parts))


def matches(glob: str, text: str, separator: str = "/") -> bool:
    """Whether a pattern fits a text; `*` and `?` do not stand for `separator`, `**` does."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")  # RE2 takes no surrogates
    return _pattern(glob, separator).fullmatch(plain) is not None


def _file(path: str) -> str:
    return path.rpartition("/")[2]


class Process:
    """A process as /proc tells it when it is asked for. What cannot be read is empty."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._folder = f"/proc/{pid}"

    def _read(self, name: str, limit: int = 1 << 16) -> str:
        with suppress(OSError), open(f"{self._folder}/{name}", "rb") as file:  # noqa: PTH123 (many, quickly)
            return file.read(limit).decode("utf-8", "backslashreplace")
        return ""

    @cached_property
    def exe(self) -> str:
        """Empty for kernel threads and those that have ended."""
        with suppress(OSError):
            return os.readlink(f"{self._folder}/exe")
        return ""

    @cached_property
    def _status(self) -> Mapping[str, str]:
        lines = (line.partition(":") for line in self._read("status").splitlines())
        return {name: value.strip() for name, _, value in lines}

    @property
    def parent(self) -> int:
        return int(self._status.get("PPid", "0"))

    @property
    def uid(self) -> int:
        return int(self._status.get("Uid", "-1").split()[0])

    @cached_property
    def user(self) -> str:
        with suppress(KeyError):
            return pwd.getpwuid(self.uid).pw_name
        return str(self.uid)

    @cached_property
    def _words(self) -> list[str]:
        return self._read("cmdline", _ARGUMENTS).split("\0")

    @cached_property
    def script(self) -> str:
        """What an interpreter runs, as its command line names it; empty."""
        if not _INTERPRETER.fullmatch(_file(self.exe)):
            return ""
        return next((word for word in self._words[1:2] if not word.startswith("-")), "")

    @property
    def programs(self) -> tuple[str, ...]:
        """The program's path, what it calls itself, and its script. Nothing of what has ended."""
        known = (self.exe, self._words[0], self.script) if self.exe else ()
        return tuple(one for one in known if one)

    @cached_property
    def environment(self) -> Mapping[str, str]:
        pairs = (item.partition("=") for item in self._read("environ", _ENVIRONMENT).split("\0"))
        return {name: value for name, _, value in pairs}

    @cached_property
    def cgroup(self) -> str:
        """Path below the mount of cgroup v2, without a leading slash."""
        lines = self._read("cgroup").splitlines()
        return next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")

    @cached_property
    def start(self) -> str:
        """Start time in clock ticks: with the id, its identity."""
        after = self._read("stat").rpartition(")")[2].split()
        return after[19] if len(after) > 19 else ""

    def ancestors(self) -> Iterator[Process]:
        """From the parent upwards."""
        above = self.parent
        for _ in range(_ANCESTORS):
            if above <= 0:
                return
            process = Process(above)
            yield process
            above = process.parent

    def label(self, path: str) -> str:
        """The first word of a label file; empty where there is none. Its own name stands for no word."""
        if path.startswith("/") and self._has_hosts_root():
            return ""  # else every process of the host would have it
        with suppress(OSError):
            content, error = read_agent_file(self.pid, path, os.readlink(f"{self._folder}/cwd"))
            if not error:
                words = content[:256].decode("utf-8", "replace").split()
                return words[0] if words else Path(path).name
        return ""

    def _has_hosts_root(self) -> bool:
        with suppress(OSError):
            ours, theirs = os.stat("/"), os.stat(f"{self._folder}/root")  # noqa: PTH116
            return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
        return True


def takes_cgroups(selector: Selector) -> bool:
    """Whether it takes cgroups as they are; others look at processes."""
    return bool(selector.cgroup) and not (
        selector.exe or selector.ancestor or selector.user or selector.env or selector.label
    )


def selects_cgroup(selector: Selector, path: str) -> str:
    """Which pattern fits a cgroup's path; empty."""
    return next((glob for glob in selector.cgroup if matches(glob, path)), "")


def selects(selector: Selector, process: Process) -> str:
    """In words, what of a process fits all that the selector asks for; empty where something does not."""
    said = []
    if selector.cgroup:
        if not (fits := _cgroup_above(selector, process.cgroup)):
            return ""
        said.append(f"cgroup {fits}")
    if selector.user:
        if not {process.user, str(process.uid)} & set(selector.user):
            return ""
        said.append(f"user {process.user}")
    if selector.exe:
        if not (fits := _program(selector.exe, process)):
            return ""
        said.append(f"exe {fits}")
    if selector.env:
        if not (fits := next((want for want in selector.env if _has_variable(process, want)), "")):
            return ""
        said.append(f"env {fits}")
    if selector.ancestor:
        if not any(fits := _program(selector.ancestor, above) for above in process.ancestors()):
            return ""
        said.append(f"ancestor {fits}")
    if selector.label:
        if not process.label(selector.label):
            return ""
        said.append(f"label {selector.label}")
    return ", ".join(said)


def _cgroup_above(selector: Selector, path: str) -> str:
    """Which pattern fits the cgroup of a process or one above it."""
    parts = path.split("/")
    paths = ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return next((fits for one in paths if (fits := selects_cgroup(selector, one))), "")


def _program(globs: tuple[str, ...], process: Process) -> str:
    """Which pattern fits the program; one without a slash is held against the file's name."""
    for glob in globs:
        for program in process.programs:
            if matches(glob, program if "/" in glob else _file(program)):
                return glob
    return ""


def _has_variable(process: Process, wanted: str) -> bool:
    name, _, glob = wanted.partition("=")
    value = process.environment.get(name)
    return value is not None and matches(glob, value, separator="")


def agent_name(table: AgentTable, cgroup: str, process: Process | None) -> str:
    """The agent's name by the table's template; what it asks for and nobody knows is left out."""
    known = dict(names(cgroup))
    if process is not None:
        known |= {
            "exe": _file(process.script or process.exe),
            "user": process.user,
            "pid": str(process.pid),
        }
        if table.select.label:
            known["label"] = process.label(table.select.label)
    if table.name:
        name = re.sub(r"\{(\w+)\}", lambda place: known.get(place[1], ""), table.name)
    else:
        order = ("label", "container", "job", "pod", *(("exe",) if process else ()), "unit", "cgroup")
        name = next((known[kind] for kind in order if known.get(kind)), "")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:_NAME_LIMIT] or "agent"
