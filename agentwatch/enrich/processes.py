"""The processes of agents, with ancestry that survives exits, execs and reuse of process ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from agentwatch.schema.decode import FLAGS, START, TGID, TID, TIME, Row, tail, unpack
from agentwatch.schema.events import Piece, PieceFlag

Key = tuple[int, int]
"""Identity of a process: its id and its start time in nanoseconds since boot."""

ENDED_KEPT = 16384  # ended processes remembered, for ancestry and late events
ENDED_ARGV = 4096  # characters of an ended process's arguments remembered
PIECES_KEPT = 256  # execs whose pieces have come but not the exec itself
PATHS_KEPT = 1024  # paths whose text is remembered: programs and folders come again and again
_CUT_SHORT = int(PieceFlag.CUT)
_EXE, _CWD, _ARGV = int(Piece.EXE), int(Piece.CWD), int(Piece.ARGV)
_FIELD_OF: dict[int, str] = {Piece.EXE: "Image", Piece.CWD: "CurrentDirectory"}
_NOTHING_CUT: frozenset[str] = frozenset()
_ARGV_CUT = frozenset(("CommandLine", "Argv"))


@dataclass(slots=True)
class Process:
    """One process. `truncated` names the rule fields whose value is not whole."""

    pid: int
    start: int
    agent: int
    parent: Key | None = None
    exe: str = ""
    argv: tuple[str, ...] = ()
    cwd: str = ""
    uid: int = 0
    euid: int = 0
    gid: int = 0
    inode: int = 0
    device: int = 0
    net_ns: int = 0
    pid_ns: int = 0
    mnt_ns: int = 0
    user_ns: int = 0
    flags: int = 0
    status: int | None = None  # wait status once ended
    ended: int = 0
    exec_seq: int = 0  # sequence number of the exec that this image came from
    truncated: frozenset[str] = frozenset()

    @property
    def key(self) -> Key:
        return self.pid, self.start

    def become(self, origin: Process) -> None:
        """Take over the image, the credentials and the namespaces of another process."""
        self.exe, self.argv, self.cwd = origin.exe, origin.argv, origin.cwd
        self.uid, self.euid, self.gid = origin.uid, origin.euid, origin.gid
        self.inode, self.device, self.flags = origin.inode, origin.device, origin.flags
        self.pid_ns, self.net_ns = origin.pid_ns, origin.net_ns
        self.mnt_ns, self.user_ns = origin.mnt_ns, origin.user_ns
        self.exec_seq, self.truncated = origin.exec_seq, origin.truncated

    @property
    def command_line(self) -> str:
        """The arguments, joined by spaces as ps shows them."""
        return " ".join(self.argv)


@dataclass(slots=True)
class _Pieces:
    """What has come of an exec so far."""

    exe: bytes | None = None
    cwd: bytes | None = None
    argv: dict[int, bytes] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)  # kinds that were cut short


@lru_cache(maxsize=PATHS_KEPT)
def path_of(names: bytes) -> str:
    """The path from names that stand from the leaf to the root, each ended by NUL."""
    parts = _texts(names)
    parts.reverse()
    return "/" + "/".join(parts)


def arguments(data: bytes) -> tuple[str, ...]:
    """The arguments from argv's memory: each ended by NUL."""
    return tuple(_texts(data))


def _texts(data: bytes) -> list[str]:
    """Texts that are each ended by NUL, the last one perhaps not."""
    parts = data.decode("utf-8", "backslashreplace").split("\0")
    if not parts[-1]:
        parts.pop()
    return parts


class ProcessTable:
    """All processes seen, by identity. Ended ones are forgotten, oldest first, beyond ENDED_KEPT."""

    def __init__(self) -> None:
        self._processes: dict[Key, Process] = {}
        self._ended: dict[Key, None] = {}
        self._pieces: dict[int, _Pieces] = {}

    def get(self, tgid: int, start: int, agent: int) -> Process:
        """The process, made if it was not known: an event may come before its fork was read.

        Number 0 stands for none: what it gives is not kept.
        """
        if not tgid:
            return Process(0, 0, agent)
        process = self._processes.get((tgid, start))
        if process is None:
            process = self._processes[tgid, start] = Process(tgid, start, agent)
        return process

    def known(self, key: Key) -> Process | None:
        return self._processes.get(key)

    def all(self) -> list[Process]:
        """Every process remembered, in the order of first sight."""
        return list(self._processes.values())

    def newest(self) -> Iterator[Process]:
        """Every process remembered, the one seen last first."""
        return reversed(self._processes.values())

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

    def fork(self, row: Row, parent: Key, agent: int) -> Process:
        """A process was created: until it execs it is what its creator is."""
        child = self.get(row[TGID], row[START], agent)
        origin = self._processes.get(parent)
        child.parent = parent
        if origin is not None and not child.exe:
            child.become(origin)
        return child

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

    def exec(self, row: Row, seq: int, agent: int) -> Process:
        """A process runs a new program: completes what its pieces said."""
        (parent_start, inode, parent, device, argv_length, uid, euid, gid, _mode,
         pid_ns, net_ns, mnt_ns, user_ns) = unpack(row)  # fmt: skip
        pieces = self._pieces.pop(row[TID], None) or _Pieces()
        process = self.get(row[TGID], row[START], agent)
        if process.parent is None:
            process.parent = (parent, parent_start)
        argv, whole = _joined(pieces.argv, argv_length)
        cut = [_FIELD_OF[kind] for kind in sorted(pieces.cut)]
        if not whole:
            cut += ("CommandLine", "Argv")
        if pieces.exe is None:
            cut.append("Image")
        if pieces.cwd is None:
            cut.append("CurrentDirectory")
        process.exe = path_of(pieces.exe or b"")
        process.cwd = path_of(pieces.cwd or b"")
        process.argv = arguments(argv)
        process.uid, process.euid, process.gid = uid, euid, gid
        process.inode, process.device, process.flags = inode, device, row[FLAGS]
        process.pid_ns, process.net_ns, process.mnt_ns, process.user_ns = pid_ns, net_ns, mnt_ns, user_ns
        process.exec_seq = seq
        process.truncated = frozenset(cut) if cut else _NOTHING_CUT
        return process

    def found(self, row: Row, agent: int) -> Process:
        """A process that ran already when watching began."""
        parent, parent_start, exe, argv, cwd, uid, euid, gid, flags, argv_cut = unpack(row)
        process = self.get(row[TGID], row[START], agent)
        if not process.exe:
            process.parent = (parent, parent_start)
            process.exe, process.argv, process.cwd = exe, tuple(argv), cwd
            process.uid, process.euid, process.gid = uid, euid, gid
            process.flags = flags
            process.truncated = _ARGV_CUT if argv_cut else _NOTHING_CUT
        return process

    def exit(self, row: Row, agent: int) -> Process:
        """A process ended; it is remembered for a while."""
        (status,) = unpack(row)
        process = self.get(row[TGID], row[START], agent)
        process.status = status
        process.ended = row[TIME]
        _shorten(process)
        self._ended[row[TGID], row[START]] = None
        if len(self._ended) > ENDED_KEPT:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._processes.pop(oldest, None)
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
