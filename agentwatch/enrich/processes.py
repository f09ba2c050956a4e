"""The processes of agents, with ancestry that survives exits, execs and reuse of process ids."""

from __future__ import annotations

import posixpath
import stat
import struct
from collections import OrderedDict
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

from agentwatch.enrich.markers import NO_MARKERS
from agentwatch.schema.decode import FLAGS, START, TGID, TID, TIME, Row, tail, unpack
from agentwatch.schema.events import Piece, PieceFlag

Key = tuple[int, int]
"""Identity of a process: its id and its start time in nanoseconds since boot."""

ENDED_KEPT = 16384  # ended processes remembered, for ancestry and late events
ENDED_ARGV = 4096  # characters of an ended process's arguments remembered
PIECES_KEPT = 256  # execs whose pieces have come but not the exec itself
VARIABLES_KEPT = 32  # of an exec's environment; it can name one many times
UNNAMED_KEPT = 1024  # parents not found yet whose children are remembered
UNNAMED_OF_ONE = 64  # and children of one
PATHS_KEPT = 1024  # paths whose text is remembered: programs and folders come again and again
LINEAGE = 8  # forks without a new program that are traced
STREAMS_KEPT = 1024  # programs of one pipeline or harness share their streams
_CUT_SHORT = int(PieceFlag.CUT)
_EXE, _CWD, _ARGV, _STREAMS, _ENVIRONMENT = (int(one) for one in Piece)
_FIELD_OF: dict[int, str] = {
    Piece.EXE: "Image",
    Piece.CWD: "CurrentDirectory",
    Piece.ENVIRONMENT: "LoaderEnvironment",
}
_NOTHING_CUT: frozenset[str] = frozenset()
_ARGV_CUT = frozenset(("CommandLine", "Argv"))
_SHELLS = frozenset("sh bash dash ash busybox zsh ksh mksh fish csh tcsh yash rbash".split())
_INTERPRETERS = ("python", "pypy", "bash", "sh", "dash", "zsh", "perl", "ruby", "julia", "node", "Rscript")
CLOCK_TICK_NS = 10_000_000  # /proc tells times in these (USER_HZ is 100)


_STREAM = struct.Struct("<QQI4x")  # struct stream in probes/include/streams.h


class Stream(NamedTuple):
    """What a standard stream is: a `StreamKind`, and the numbers that tell one of its kind from another."""

    kind: int
    identity: int = 0
    peer: int = 0


Streams = tuple[Stream, Stream, Stream]
"""Standard input, output and error."""


class Process:
    """One process. `truncated` names the rule fields whose value is not whole.

    Plain slots: one is made for each fork, and a dataclass cannot be made by compiled code.
    """

    __slots__ = (
        "agent", "argv", "cwd", "device", "ended", "environment", "euid", "exe", "exec_seq", "flags", "gid",
        "inode", "key", "markers", "mnt_ns", "net_ns", "parent", "pid", "pid_ns", "registered", "root_from",
        "start", "status", "streams", "truncated", "uid", "user_ns",
    )  # fmt: skip

    def __init__(self, pid: int, start: int, agent: int, streams: Streams | None = None) -> None:
        self.pid = pid
        self.start = start
        self.agent = agent
        self.key: Key = (pid, start)
        self.parent: Key | None = None
        self.exe = ""
        self.argv: tuple[str, ...] = ()
        self.cwd = ""
        self.environment: tuple[str, ...] = ()  # variables that have code loaded, as NAME=value
        self.uid = 0
        self.euid = 0
        self.gid = 0
        self.inode = 0
        self.device = 0
        self.net_ns = 0
        self.pid_ns = 0
        self.mnt_ns = 0
        self.user_ns = 0
        self.flags = 0
        self.status: int | None = None  # wait status once ended
        self.ended = 0
        self.exec_seq = 0  # sequence number of the exec that this image came from
        self.streams = streams  # as they were at that exec; None where it was not seen
        self.truncated = _NOTHING_CUT
        self.root_from: int | None = None  # who became root since the last exec, by no setuid file
        self.registered = True  # of the registered job: see `ProcessTable.registers`
        self.markers = NO_MARKERS  # its own and those that it inherited

    def become(self, origin: Process) -> None:
        """Take over the image, the credentials and the namespaces of another process."""
        self.exe, self.argv, self.cwd = origin.exe, origin.argv, origin.cwd
        self.uid, self.euid, self.gid = origin.uid, origin.euid, origin.gid
        self.inode, self.device, self.flags = origin.inode, origin.device, origin.flags
        self.pid_ns, self.net_ns = origin.pid_ns, origin.net_ns
        self.mnt_ns, self.user_ns = origin.mnt_ns, origin.user_ns
        self.environment = origin.environment
        self.exec_seq, self.truncated = origin.exec_seq, origin.truncated
        self.streams = origin.streams
        self.registered = origin.registered
        self.markers = origin.markers

    @property
    def command_line(self) -> str:
        """The arguments, joined by spaces as ps shows them."""
        return " ".join(self.argv)


class _Pieces:
    """What has come of an exec so far."""

    __slots__ = ("argv", "cut", "cwd", "environment", "exe", "streams")

    def __init__(self) -> None:
        self.exe: bytes | None = None
        self.cwd: bytes | None = None
        self.streams = b""
        self.argv: dict[int, bytes] = {}
        self.environment: list[bytes] = []
        self.cut: set[int] = set()  # kinds that were cut short


@lru_cache(maxsize=PATHS_KEPT)
def path_of(names: bytes) -> str:
    """The path from names that stand from the leaf to the root, each ended by NUL."""
    parts = _texts(names)
    parts.reverse()
    return "/" + "/".join(parts)


def arguments(data: bytes) -> tuple[str, ...]:
    """The arguments from argv's memory: each ended by NUL."""
    return tuple(_texts(data))


@lru_cache(maxsize=STREAMS_KEPT)
def streams_of(data: bytes) -> Streams | None:
    """The three streams from a piece's bytes; None where they were not recorded."""
    if len(data) != 3 * _STREAM.size:
        return None
    one, two, three = [Stream(kind, identity, peer) for identity, peer, kind in _STREAM.iter_unpack(data)]
    return one, two, three


def _texts(data: bytes) -> list[str]:
    """Texts that are each ended by NUL, the last one perhaps not."""
    parts = data.decode("utf-8", "backslashreplace").split("\0")
    if not parts[-1]:
        parts.pop()
    return parts


class ProcessTable:
    """All processes seen, by identity. Ended ones are forgotten, oldest first, beyond ENDED_KEPT."""

    def __init__(self, training: Collection[str] = ()) -> None:
        self._training = frozenset(training)
        self._training_of: dict[int, frozenset[str]] = {}  # by agent: what its policy names besides
        self._processes: dict[Key, Process] = {}
        self._latest: dict[int, Process] = {}  # by process id
        self._ended: OrderedDict[Key, None] = OrderedDict()
        self._pieces: dict[int, _Pieces] = {}
        self._unnamed: dict[Key, list[Process]] = {}  # children of processes that are not known yet

    def get(self, tgid: int, start: int, agent: int) -> Process:
        """The process, made if it was not known: an event may come before its fork was read.

        Number 0 stands for none: what it gives is not kept.
        """
        key = tgid, start
        process = self._processes.get(key)
        if process is None:
            process = Process(tgid, start, agent)
            if tgid:
                self._processes[key] = self._latest[tgid] = process
        return process

    def running(self, pid: int, start: int) -> Process | None:
        """The process of this id whose start, cut to whole clock ticks, is `start`."""
        process = self._latest.get(pid)
        return process if process is not None and 0 <= process.start - start < CLOCK_TICK_NS else None

    def living(self, pid: int) -> Process | None:
        """The process of this id, unless it has ended."""
        process = self._latest.get(pid)
        return process if process is not None and process.status is None else None

    def known(self, key: Key) -> Process | None:
        return self._processes.get(key)

    def all(self) -> list[Process]:
        """Every process remembered, in the order of first sight."""
        return list(self._processes.values())

    def newest(self) -> Iterator[Process]:
        """Every process remembered, the one seen last first."""
        return reversed(self._processes.values())

    def parent(self, process: Process) -> Process | None:
        """The one that it was forked from, where that is known."""
        return self._processes.get(process.parent) if process.parent else None

    def above(self, process: Process, count: int) -> list[Process]:
        """From the parent upwards, as far as they are known, at most `count` of them."""
        found: list[Process] = []
        while len(found) < count and (parent := self.parent(process)) is not None:
            found.append(parent)
            process = parent
        return found

    def ancestors(self, process: Process) -> list[Process]:
        """From the parent upwards, as far as the agent's tree is known."""
        chain: list[Process] = []
        seen = {process.key}
        while process.parent is not None and process.parent not in seen:
            seen.add(process.parent)
            above = self._processes.get(process.parent)
            if above is None:
                break
            chain.append(above)
            process = above
        return chain

    def lineage(self, process: Process) -> Iterator[Process]:
        """The process and those that it was forked from, as long as they run the same program."""
        for _ in range(LINEAGE):
            yield process
            above = self._forked_from(process)
            if above is None:
                return
            process = above

    def origin(self, process: Process) -> Process:
        """The one that ran the program which this process runs, as far as forks can be traced."""
        for _ in range(LINEAGE - 1):
            above = self._forked_from(process)
            if above is None:
                break
            process = above
        return process

    def _forked_from(self, process: Process) -> Process | None:
        """The one that it was forked from, where both run the same program."""
        above = self.parent(process)
        if above is None or above.exec_seq != process.exec_seq or above.argv != process.argv:
            return None
        return above

    def fork(self, row: Row, parent: Key, agent: int) -> Process:
        """A process was created: until it execs it is what its creator is."""
        child = self.get(row[TGID], row[START], agent)
        origin = self._processes.get(parent)
        child.parent = parent
        if child.exe:
            return child
        if origin is not None:
            child.become(origin)
        if not child.exe:
            self._await(parent, child)
        return child

    def _await(self, parent: Key, child: Process) -> None:
        """Remember a child until its parent, which ran before, is found. The oldest are forgotten first."""
        children = self._unnamed.setdefault(parent, [])
        if len(children) < UNNAMED_OF_ONE:
            children.append(child)
        if len(self._unnamed) > UNNAMED_KEPT:
            del self._unnamed[next(iter(self._unnamed))]

    def piece(self, row: Row) -> None:
        """Keep a piece until the exec that it belongs to."""
        offset, length, kind = unpack(row)
        pieces = self._pieces.pop(row[TID], None)
        if pieces is None:
            pieces = _Pieces()
            if len(self._pieces) >= PIECES_KEPT:
                del self._pieces[next(iter(self._pieces))]
        self._pieces[row[TID]] = pieces  # moved to the end: the oldest goes first
        data = tail(row, length)
        if row[FLAGS] & _CUT_SHORT and kind in _FIELD_OF:
            pieces.cut.add(kind)
        if kind == _EXE:
            pieces.exe = data
        elif kind == _CWD:
            pieces.cwd = data
        elif kind == _ARGV:
            pieces.argv[offset] = data
        elif kind == _ENVIRONMENT and data:
            if len(pieces.environment) < VARIABLES_KEPT:
                pieces.environment.append(data)
            else:
                pieces.cut.add(kind)
        elif kind == _STREAMS:
            pieces.streams = data

    def exec(self, row: Row, seq: int, agent: int) -> Process:
        """A process runs a new program: completes what its pieces said."""
        (parent_start, inode, parent, device, argv_length, uid, euid, gid, mode,
         pid_ns, net_ns, mnt_ns, user_ns) = unpack(row)  # fmt: skip
        pieces = self._pieces.pop(row[TID], None) or _Pieces()
        process = self.get(row[TGID], row[START], agent)
        if process.parent is None:
            self._belongs_to(process, (parent, parent_start))
        argv, whole = _joined(pieces.argv, argv_length)
        cut = [_FIELD_OF[kind] for kind in sorted(pieces.cut)]
        if not whole:
            cut += ("CommandLine", "Argv")
        if pieces.exe is None:
            cut.append("Image")
        if pieces.cwd is None:
            cut.append("CurrentDirectory")
        became_root = bool(process.exe and process.euid) and not (euid or mode & stat.S_ISUID)
        process.root_from = process.uid if became_root else None
        process.agent = agent  # it may have been taken into another one
        process.exe = path_of(pieces.exe or b"")
        process.cwd = path_of(pieces.cwd or b"")
        process.argv = arguments(argv)
        process.environment = arguments(b"".join(pieces.environment)) if pieces.environment else ()
        process.uid, process.euid, process.gid = uid, euid, gid
        process.inode, process.device, process.flags = inode, device, row[FLAGS]
        process.pid_ns, process.net_ns, process.mnt_ns, process.user_ns = pid_ns, net_ns, mnt_ns, user_ns
        process.exec_seq = seq
        process.streams = streams_of(pieces.streams)
        process.truncated = frozenset(cut) if cut else _NOTHING_CUT
        process.registered = self.registers(process)
        return process

    def found(self, row: Row, agent: int) -> Process:
        """A process that ran already when watching began."""
        parent, parent_start, exe, argv, cwd, uid, euid, gid, flags, argv_cut = unpack(row)
        process = self.get(row[TGID], row[START], agent)
        if not process.exe:
            self._belongs_to(process, (parent, parent_start))
            process.exe, process.argv, process.cwd = exe, tuple(argv), cwd
            process.uid, process.euid, process.gid = uid, euid, gid
            process.flags = flags
            process.truncated = _ARGV_CUT if argv_cut else _NOTHING_CUT
            process.registered = self.registers(process)
            self._name_children(process)
        return process

    def _name_children(self, process: Process) -> None:
        """What was forked off before the process was found, and runs no other program, is what it is."""
        pending = [process]
        while pending:
            above = pending.pop()
            for child in self._unnamed.pop(above.key, ()):
                if not child.exe:
                    child.become(above)
                    pending.append(child)

    def _belongs_to(self, process: Process, parent: Key) -> None:
        """The parent of a process whose fork was not seen."""
        process.parent = parent
        above = self._processes.get(parent)
        process.registered = above is None or above.registered
        if above is not None and not process.markers:
            process.markers = above.markers

    def train(self, agent: int, paths: Collection[str]) -> None:
        """What of an agent is the registered training job: programs and scripts, or all of it (*)."""
        before = self._training_of.pop(agent, frozenset())
        if paths:
            self._training_of[agent] = frozenset(paths)
        if before == frozenset(paths):
            return
        for process in self._processes.values():  # parents before children
            if process.agent == agent:
                above = self.parent(process)
                process.registered = above is None or above.registered
                if above is None or (above.exec_seq, above.argv) != (process.exec_seq, process.argv):
                    process.registered = self.registers(process)

    def training_of(self, agent: int) -> frozenset[str]:
        """What an agent's policy names as the training job."""
        return self._training_of.get(agent, frozenset())

    def registers(self, process: Process) -> bool:
        """Whether a process that has begun a program belongs to the registered job.

        That is the agent's root command and what it starts, but not what a shell below it runs (a
        tool's shell), and again what the operator named as training.
        """
        if (self._training or self._training_of) and self._is_training(process):
            return True
        if not process.registered or process.exe.rpartition("/")[2] not in _SHELLS:
            return process.registered
        return process.parent is None or process.parent not in self._processes

    def _is_training(self, process: Process) -> bool:
        """Whether it runs a program or an interpreter's script that the operator named by its path."""
        named = self._training | self.training_of(process.agent)
        if process.exe in named or "*" in named:
            return True
        if not process.exe.rpartition("/")[2].startswith(_INTERPRETERS):
            return False
        script = next((word for word in process.argv[1:] if not word.startswith("-")), "")
        return bool(script) and posixpath.normpath(posixpath.join(process.cwd, script)) in named

    def exit(self, row: Row, agent: int) -> Process:
        """A process ended; it is remembered for a while."""
        (status,) = unpack(row)
        process = self.get(row[TGID], row[START], agent)
        process.status = status
        process.ended = row[TIME]
        _shorten(process)
        self._ended[process.key] = None
        if len(self._ended) > ENDED_KEPT:
            oldest, _ = self._ended.popitem(last=False)
            forgotten = self._processes.pop(oldest, None)
            if self._latest.get(oldest[0]) is forgotten:
                self._latest.pop(oldest[0], None)
        return process


def _shorten(process: Process) -> None:
    """Keep the beginning of an ended process's arguments: an agent can make many, and long ones."""
    room = ENDED_ARGV
    kept: list[str] = []
    for word in process.argv:
        if room < len(word):
            process.argv = tuple(kept)
            process.truncated |= {"CommandLine", "Argv"}
            return
        kept.append(word)
        room -= len(word) + 1


def _joined(chunks: dict[int, bytes], length: int) -> tuple[bytes, bool]:
    """argv from its chunks up to the first hole, and whether that is all of it."""
    if len(chunks) == 1 and 0 in chunks:
        return chunks[0], len(chunks[0]) >= length
    data = b""
    for offset in sorted(chunks):
        if offset != len(data):
            break
        data += chunks[offset]
    return data, len(data) >= length
