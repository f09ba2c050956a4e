"""Coverage-guided fuzzing of the trace reader: `python -m tests.fuzz.trace_reader SECONDS [SEED]`.

With atheris where that is installed, else guided by lines in Python. Digests would stop every
mutation at the door, so each input is tried both as it is and as a frame under a right digest
(its first bytes tell the type and the counts). Found is whatever is raised other than
`TraceError`, and more memory than `MEMORY_MIB`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import struct
import sys
import tempfile
from pathlib import Path

from agentwatch.trace.error import TraceError
from tests.fuzz.lines import fuzz

MEMORY_MIB = 1024
_CHOICE = struct.Struct("<BBHIIHQQ")


def try_bytes(data: bytes) -> None:
    """Everything that can be done to a file from a stranger."""
    from agentwatch.trace.index import build_index, read  # noqa: PLC0415
    from agentwatch.trace.reader import TraceReader  # noqa: PLC0415
    from agentwatch.trace.verify import verify  # noqa: PLC0415

    with contextlib.suppress(TraceError):
        for batches in TraceReader(io.BytesIO(data)):
            assert batches
    with contextlib.suppress(TraceError):
        verify(io.BytesIO(data))
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(TraceError):
        file.write(data)
        file.flush()
        for batches in read(file.name, build_index(file.name).entries):
            assert batches


def framed(data: bytes) -> bytes:
    """A trace whose second frame has its type, sizes, summary and payload from `data`."""
    from agentwatch.trace.format import Body  # noqa: PLC0415
    from tests.trace.samples import rounds, rounds_body, trace  # noqa: PLC0415

    choice = data[: _CHOICE.size].ljust(_CHOICE.size, b"\0")
    type_, codec, summary, records, plain, count, first, last = _CHOICE.unpack(choice)
    rest = data[_CHOICE.size :]
    payload = rest[summary % 256 :]
    plain = len(payload) if codec % 2 == 0 else plain
    body = Body(type_, payload, plain, codec % 3, rest[: summary % 256], records, count, first, last)
    return trace(body, rounds_body(rounds(1)))


def one_input(data: bytes) -> None:
    try_bytes(data)
    try_bytes(framed(data))


def seeds(folder: Path) -> None:
    """Whole traces and frames to begin with."""
    from tests.trace.samples import end_body, header, rounds, rounds_body, trace  # noqa: PLC0415

    body = rounds_body(rounds(4))
    (folder / "whole").write_bytes(trace(body, end_body(rounds(4))))
    for type_, payload in ((1, header().pack()), (3, body.payload), (4, b"\x80"), (5, b"\x80"), (6, b"\x80")):
        choice = _CHOICE.pack(type_, int(type_ == 3), len(body.summary), 1, body.plain_size, 4, 1, 2)
        (folder / f"frame-{type_}").write_bytes(choice + body.summary + payload)


def main() -> int:
    seconds, seed = int(sys.argv[1]), int((*sys.argv[2:], "1")[0])
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        return _by_lines(seconds, seed)
    # Before anything else imports them, or they are not instrumented.
    with atheris.instrument_imports(include=["agentwatch.trace"]):
        for name in ("format", "index", "reader", "verify"):
            importlib.import_module(f"agentwatch.trace.{name}")
    with tempfile.TemporaryDirectory() as corpus:
        seeds(Path(corpus))
        options = [f"-rss_limit_mb={MEMORY_MIB}", f"-max_total_time={seconds}", f"-seed={seed}"]
        atheris.Setup([sys.argv[0], *options, corpus], one_input)
        atheris.Fuzz()
    return 0


def _by_lines(seconds: int, seed: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20, MEMORY_MIB << 20))
    with tempfile.TemporaryDirectory() as corpus:
        seeds(Path(corpus))
        inputs = [path.read_bytes() for path in sorted(Path(corpus).iterdir())]
    runs, lines = fuzz(one_input, inputs, "agentwatch/trace", seconds, seed)
    print(f"{runs} runs, {lines} lines reached, {len(inputs)} inputs kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
