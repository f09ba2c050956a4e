"""Which programs are joined by pipes: from the standard streams that each had when it was run."""

from __future__ import annotations

from typing import Final

from agentwatch.enrich.bounded import put
from agentwatch.enrich.processes import Process, Stream
from agentwatch.schema.events import StreamKind

PIPES_KEPT: Final = 2048
"""Pipes remembered; the one that was used longest ago goes first."""
ENDS_KEPT: Final = 8
"""Programs remembered at either end of a pipe, the latest."""

_PIPES: Final = (int(StreamKind.PIPE), int(StreamKind.FIFO))


class _Pipe:
    __slots__ = ("readers", "writers")

    def __init__(self) -> None:
        self.readers: list[Process] = []
        self.writers: list[Process] = []


class Pipes:
    """The pipes on standard streams and the programs at their ends."""

    def __init__(self) -> None:
        self._pipes: dict[Stream, _Pipe] = {}

    def ran(self, process: Process) -> None:
        """A program runs with the streams that the process names."""
        if process.streams is None:
            return
        for fd, stream in enumerate(process.streams):
            if stream.kind in _PIPES:
                pipe = self._pipes.get(stream) or _Pipe()
                put(self._pipes, stream, pipe, PIPES_KEPT)
                _add(pipe.writers if fd else pipe.readers, process)

    def writers(self, process: Process) -> list[Process]:
        """Other programs whose output is this one's input."""
        pipe = self._pipes.get(process.streams[0]) if process.streams else None
        return [end for end in pipe.writers if _is_other(end, process)] if pipe else []

    def readers(self, process: Process) -> list[Process]:
        """Other programs whose input is this one's output."""
        found = []
        for stream in dict.fromkeys(process.streams[1:]) if process.streams else ():
            pipe = self._pipes.get(stream)
            found += [end for end in pipe.readers if _is_other(end, process)] if pipe else []
        return found


def _add(ends: list[Process], process: Process) -> None:
    if not any(end is process for end in ends):
        ends.append(process)
        del ends[:-ENDS_KEPT]


def _is_other(end: Process, process: Process) -> bool:
    return end is not process and not end.ended
