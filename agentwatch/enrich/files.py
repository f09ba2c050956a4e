"""What processes did to watched files, from records that tell one name each."""

from __future__ import annotations

import posixpath
import stat
from typing import NamedTuple

from agentwatch.enrich import watched_files
from agentwatch.enrich.bounded import put
from agentwatch.enrich.processes import path_of
from agentwatch.schema.decode import FLAGS, TID, Row, tail, unpack
from agentwatch.schema.events import Access, FileFlag

NAMES_KEPT = 256  # first names of a rename or link whose second one has not come; the oldest goes first
_CUT = int(FileFlag.CUT)
_READ = int(Access.READ)
_FIRST_OF_TWO = (int(Access.RENAME_FROM), int(Access.LINK_FROM))
_OF_PROCESSES = frozenset(("mem", "environ"))


class FileUse(NamedTuple):
    """A watched file was used. `source` is the other name of a rename or link.

    `kind` is that of `watched_files`, empty where only the cut path is known.
    """

    access: Access
    path: str
    source: str
    kind: str
    truncated: frozenset[str]  # of TargetFilename and SourceFilename


class FileNames:
    """Makes uses of files from records, two of which tell of a rename or link."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[str, bool]] = {}

    def use(self, row: Row) -> FileUse | None:
        """The use that this record completes; None where it completes none, or none that is watched."""
        access, mode, own_pid, text, length = unpack(row)
        path, cut = _path(tail(row, length), text), bool(row[FLAGS] & _CUT)
        if access in _FIRST_OF_TWO:
            put(self._first, row[TID], (path, cut), NAMES_KEPT)
            return None
        source, source_cut = "", False
        if access - 1 in _FIRST_OF_TWO:
            source, source_cut = self._first.pop(row[TID], ("", True))
        kind = watched_files.kind(path, access) or (source and watched_files.kind(source, access))
        if stat.S_ISBLK(mode):
            kind = "disk"
        truncated = frozenset(
            name for name, is_cut in (("TargetFilename", cut), ("SourceFilename", source_cut)) if is_cut
        )
        if _is_own(path, own_pid) or not (kind or truncated):
            return None
        try:
            return FileUse(Access(access), path, source, kind, truncated)
        except ValueError:
            return None  # from a later schema


def _path(data: bytes, text: int) -> str:
    """The path from its names, or from the folder's and what was asked for there."""
    if not text:
        return path_of(data)
    names, asked = data[:-text], data[-text:].split(b"\0")[0].decode("utf-8", "backslashreplace")
    # A link on the way is not followed: where it leads was not told.
    return posixpath.normpath(asked if asked.startswith("/") else f"{path_of(names)}/{asked}")


def _is_own(path: str, own_pid: int) -> bool:
    """Whether this is the process's own memory or environment in /proc."""
    names = path.split("/")
    if names[-1] not in _OF_PROCESSES:
        return False
    return str(own_pid) in (names[-2], names[-4] if len(names) > 4 and names[-3] == "task" else "")
