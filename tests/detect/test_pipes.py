"""Programs joined by pipes."""

from __future__ import annotations

from agentwatch.detect.pipes import PIPES_KEPT, Pipes
from agentwatch.enrich.processes import Process, Stream
from agentwatch.schema.events import StreamKind


def _process(pid: int, *pipes: int) -> Process:
    one, two, three = (Stream(int(StreamKind.PIPE), pipe) for pipe in pipes)
    return Process(pid, pid, 1, streams=(one, two, three))


def test_the_ends_of_a_pipe() -> None:
    pipes, writer, reader = Pipes(), _process(1, 10, 11, 12), _process(2, 11, 13, 14)
    pipes.ran(writer)
    pipes.ran(reader)
    assert (pipes.readers(writer), pipes.writers(reader)) == ([reader], [writer])
    writer.ended = 1
    assert pipes.writers(reader) == []


def test_pipes_are_bounded_however_many_a_program_has() -> None:
    pipes = Pipes()
    for pid in range(PIPES_KEPT):
        pipes.ran(_process(pid, 3 * pid, 3 * pid + 1, 3 * pid + 2))
    assert len(pipes._pipes) == PIPES_KEPT
