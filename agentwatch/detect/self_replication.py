"""A program that copies itself to another host and runs it there; or runs a copy of itself here.

Told by the command lines of the tools that copy (scp, rsync, cp, `cat FILE | ssh HOST ...`) and run
(ssh), and by what the agent's processes are: a file is its own where a process of the agent runs it, as
its image or as an interpreter's script. To deploy other files, or a folder, is no replication.

Kinds, in their order: `self_transfer` (its own file goes to a host), `self_replication` (and is run
there), `self_copy` (a local copy of its own file runs). What programs copy without such tools (open,
paramiko) leaves no command line and is not seen here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from posixpath import basename, join, normpath
from typing import Final

from agentwatch.detect import ssh_argv
from agentwatch.detect.handler import NOTHING, Handler
from agentwatch.detect.per_agent import PerAgent
from agentwatch.enrich.bounded import put
from agentwatch.enrich.facts import behaviour_sighting
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.event import Value
from agentwatch.schema.events import Type

WORDS_LIMIT: Final = 256
"""Words of a command line that are looked at."""
PROCESSES_SEARCHED: Final = 256
"""Processes, the newest first, in which a file that is sent is looked for, besides the ancestors."""
HOSTS_KEPT: Final = 256
NAMES_KEPT: Final = 16
COPIES_KEPT: Final = 256
READERS_KEPT: Final = 64
"""Bounds of an agent's tables; the oldest goes first."""

_INTERPRETER: Final = re.compile(
    r"(python|pypy|bash|sh|dash|ash|zsh|ksh|perl|ruby|node|nodejs|php|lua|luajit|deno|bun|Rscript)[0-9.]*"
)
_STARTERS: Final = frozenset((".", "source", "exec", "torchrun", "screen", "tmux", "systemd-run", "srun"))
_SCP_ARGUMENTS: Final = "cDFiJloPSX"
_RSYNC_ARGUMENTS: Final = frozenset(
    (
        *("-e", "-f", "-B", "-T", "-M", "--rsh", "--exclude", "--include", "--exclude-from"),
        *("--include-from", "--files-from", "--rsync-path", "--filter", "--port", "--bwlimit"),
        *("--password-file", "--timeout"),
    )
)
_REMOTE_LENGTH: Final = 1024  # letters of a remote command in which a file written is looked for
_BETWEEN_COMMANDS: Final = re.compile(r"[;&|()\n]+")
_QUOTES: Final = re.compile(r"[\"'`]")


@dataclass(frozen=True, slots=True)
class Copy:
    """What a command line copies: files as written, to a path on a host (empty: this one)."""

    sources: tuple[str, ...]
    host: str
    path: str

    @property
    def names(self) -> tuple[str, ...]:
        """What the copies may be called there."""
        own = () if self.path.endswith("/") or not self.path else (basename(self.path),)
        return own + tuple(basename(source) for source in self.sources)


def scp(words: Sequence[str]) -> Copy | None:
    """scp's command line, the program's name left out."""
    return _copy(_plain(words, _SCP_ARGUMENTS))


def rsync(words: Sequence[str]) -> Copy | None:
    """rsync's, for a push to a host."""
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            plain.append(word)
        elif word in _RSYNC_ARGUMENTS:
            next(rest, None)
    return _copy(plain)


def cp(words: Sequence[str]) -> Copy | None:
    """cp's and install's, for copies on this host."""
    *sources, path = _plain(words, "tSmog") or [""]
    return Copy(tuple(sources), "", path) if sources and path else None


def _plain(words: Sequence[str], with_argument: str) -> list[str]:
    """The words that are no options. Options end at `--`."""
    plain: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return plain + list(rest)
        if not word.startswith("-") or word == "-":
            plain.append(word)
        elif not word.startswith("--") and word[-1] in with_argument:
            next(rest, None)
    return plain


_REMOTE: Final = re.compile(
    r"(?:(?:scp|rsync)://)?(?:[^@/]*@)?(\[[^]/]*\]|[^:/\[\]]+)(?::+|(?<=\w)/)(.*)", re.DOTALL
)


def _copy(plain: Sequence[str]) -> Copy | None:
    """Local files that go to the host which the last word names."""
    if len(plain) < 2 or ":" not in plain[-1]:
        return None
    place = _REMOTE.fullmatch(plain[-1])
    sources = tuple(word for word in plain[:-1] if ":" not in word.partition("/")[0])
    if place is None or not sources:
        return None
    return Copy(sources, place[1].strip("[]").lower(), place[2])


def runs(words: Sequence[str], names: Iterable[str]) -> bool:
    """Whether a shell command runs a file of one of these names, itself or through an interpreter."""
    wanted = frozenset(names)
    for command in _BETWEEN_COMMANDS.split(_QUOTES.sub("", " ".join(words))):
        plain = ssh_argv.unwrap(command.split()[:WORDS_LIMIT])
        if not plain:
            continue
        first, *more = map(basename, plain)
        if first in wanted:
            return True
        starts = _INTERPRETER.fullmatch(first) is not None or first in _STARTERS
        if starts and not wanted.isdisjoint(more):
            return True
    return False


def script_of(argv: Sequence[str]) -> str:
    """The file that an interpreter runs; empty for other programs and for code in the arguments."""
    if not argv or not _is_interpreter(basename(argv[0])):
        return ""
    rest = iter(argv[1:16])
    for word in rest:
        if not word.startswith("-"):
            return word
        if word in ("-c", "-e", "-m", "--eval"):
            return ""
        if word in ("-W", "-X", "-O", "-o", "-r", "--require"):
            next(rest, None)
    return ""


@lru_cache(maxsize=512)  # programs come again and again
def _is_interpreter(name: str) -> bool:
    return _INTERPRETER.fullmatch(name) is not None


def resolve(cwd: str, path: str) -> str:
    """A path as seen from a folder, without `.` and `..`. Links are not followed."""
    return normpath(join(cwd or "/", path))


@dataclass(slots=True)
class _Agent:
    """What an agent has copied: names by host, its own files' copies here, and who reads which files."""

    sent: dict[str, dict[str, str]] = field(default_factory=dict)  # host -> name there -> own file
    copies: dict[str, str] = field(default_factory=dict)  # copy -> own file
    readers: dict[Key, tuple[str, ...]] = field(default_factory=dict)  # parent -> files piped


class SelfReplication:
    """Events of category `process_behaviour`: see the module."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._agents = PerAgent(_Agent)
        self.handlers: dict[int, Handler] = {int(Type.EXEC): self._exec}

    def _exec(self, change: Change) -> Sequence[Sighting]:
        """What this command adds to those before."""
        process = change.process
        argv = process.argv
        handler = _tool(process.exe, argv[0] if argv else "")
        agent = self._agents.known(change.agent)
        found = _run_here(agent, process) if agent is not None and agent.copies else []
        if handler is not None:
            found += handler(self, self._agents.of(change.agent), process, argv[1:WORDS_LIMIT])
        if not found:
            return NOTHING
        return [behaviour_sighting(self._state, "process_behaviour", change, one) for one in found]

    def scp(self, agent: _Agent, process: Process, words: Sequence[str]) -> list[dict[str, Value]]:
        """A file goes to a host."""
        return self._sent(agent, process, scp(words))

    def rsync(self, agent: _Agent, process: Process, words: Sequence[str]) -> list[dict[str, Value]]:
        """The same."""
        return self._sent(agent, process, rsync(words))

    def cp(self, agent: _Agent, process: Process, words: Sequence[str]) -> list[dict[str, Value]]:
        """A file gets a copy here; a folder as the target takes the files' names."""
        copy = cp(words)
        if copy is None:
            return []
        own = _own_files(self._state.processes.ancestors(process))
        target = resolve(process.cwd, copy.path)
        for source in copy.sources:
            path = resolve(process.cwd, source)
            if path in own:
                put(agent.copies, target, path, COPIES_KEPT)
                put(agent.copies, join(target, basename(path)), path, COPIES_KEPT)
        return []

    def reads(self, agent: _Agent, process: Process, words: Sequence[str]) -> list[dict[str, Value]]:
        """A file is read into a pipe, perhaps."""
        if process.parent is not None:
            files = tuple(word for word in words if not word.startswith("-"))[:4]
            put(agent.readers, process.parent, files, READERS_KEPT)
        return []

    def ssh(self, agent: _Agent, process: Process, words: Sequence[str]) -> list[dict[str, Value]]:
        """A command runs on a host: it may write what is piped to it, or run what was sent before."""
        command = ssh_argv.parse(("ssh", *words))
        if command is None or not command.remote_words:
            return []
        host = command.host.lower()
        found = []
        target = _written(command.remote_words)
        files = agent.readers.get(process.parent, ()) if process.parent is not None else ()
        if target and files:
            found += self._sent(agent, process, Copy(files, host, target))
        sent = agent.sent.get(host, {})
        if sent and runs(command.remote_words, sent):
            name = next(name for name in sent if runs(command.remote_words, (name,)))
            found.append(_facts("self_replication", sent[name], name, host))
        return found

    def _sent(self, agent: _Agent, process: Process, copy: Copy | None) -> list[dict[str, Value]]:
        if copy is None:
            return []
        processes = self._state.processes
        newest = islice(processes.newest(), PROCESSES_SEARCHED)
        running = (one for one in newest if not one.ended and one.agent == process.agent)
        own = _own_files((*processes.ancestors(process), *running))
        paths = (resolve(process.cwd, source) for source in copy.sources)
        path = next((path for path in paths if path in own), None)
        if path is None:
            return []
        names = agent.sent.get(copy.host, {})
        for name in (basename(path), *copy.names[:1]):
            put(names, name, path, NAMES_KEPT)
        put(agent.sent, copy.host, names, HOSTS_KEPT)
        return [_facts("self_transfer", path, copy.path, copy.host)]


def _own_files(processes: Iterable[Process]) -> set[str]:
    """The images of processes, and the scripts that they interpret. Only to be asked, never listed."""
    files = set()
    for process in processes:
        files.add(process.exe)
        script = script_of(process.argv)
        if script:
            files.add(resolve(process.cwd, script))
    return files


def _run_here(agent: _Agent, process: Process) -> list[dict[str, Value]]:
    script = script_of(process.argv)
    for path in (process.exe, resolve(process.cwd, script) if script else ""):
        own = agent.copies.get(path)
        if own and own != path:
            return [_facts("self_copy", own, path, None)]
    return []


_WRITES: Final = re.compile(
    r"(?:^|[\s;&|])(?:(?:cat|gunzip|zcat|base64 -d)[^;&|]*>|tee\s|dd\s[^;&|]*of=)\s*([^\s;&|]+)"
)


def _written(words: Sequence[str]) -> str:
    """The file on the far side that a remote command writes its standard input to; empty for none."""
    found = _WRITES.search(_QUOTES.sub("", " ".join(words))[:_REMOTE_LENGTH])
    return found[1] if found else ""


def _facts(kind: str, source: str, target: str, host: str | None) -> dict[str, Value]:
    return {
        "Kind": kind,
        "SourceFilename": source,
        "TargetFilename": target,
        "DestinationHostname": host,
    }


_Handler = Callable[[SelfReplication, _Agent, Process, Sequence[str]], "list[dict[str, Value]]"]
_TOOLS: Final[dict[str, _Handler]] = {
    "scp": SelfReplication.scp,
    "rsync": SelfReplication.rsync,
    "cp": SelfReplication.cp,
    "install": SelfReplication.cp,
    "ssh": SelfReplication.ssh,
    **dict.fromkeys(("cat", "base64", "gzip", "tar"), SelfReplication.reads),
}


@lru_cache(maxsize=1024)  # programs come again and again
def _tool(exe: str, name: str) -> _Handler | None:
    """What the program is by its file or, as those that are many in one file, by its name."""
    return _TOOLS.get(basename(exe)) or _TOOLS.get(basename(name))
