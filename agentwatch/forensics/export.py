"""`trace export`: recordings in the formats of other tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from agentwatch.forensics.account import Account
from agentwatch.forensics.lines import Lines
from agentwatch.forensics.pcapng import Packets, file_header
from agentwatch.forensics.perfetto import TraceEvents
from agentwatch.forensics.reading import Reading
from agentwatch.forensics.story import Story
from agentwatch.forensics.tables import ALL, Depth
from agentwatch.replay import Recording

Write = Callable[[bytes], object]

FORMATS = ("parquet", "jsonl", "pcapng", "perfetto")


def to_parquet(recording: Recording, folder: Path, tables: Mapping[str, Depth] = ALL) -> Account:
    """These tables of a recording into a folder of Parquet files. Raises `ImportError` without PyArrow."""
    from agentwatch.forensics.parquet import ParquetFolder  # noqa: PLC0415 - an extra

    with ParquetFolder(folder) as out:
        reading = Reading(recording, out.write, tables)
        reading.run()
    return reading


def to_lines(work: Sequence[Recording], write: Write) -> Iterator[Account]:
    """JSON lines."""
    for recording in work:
        reading = Reading(recording, Lines(write).write, ALL)
        reading.run()
        yield reading


def to_pcapng(work: Sequence[Recording], write: Write) -> Iterator[Account]:
    """The captured payloads as packets, an interface for each recording."""
    write(file_header("Payloads captured by agentwatch; headers are made around them, checksums are zero."))
    interface = 0
    for recording in work:
        story = Story(recording, Packets(write, interface))
        story.tell()
        interface += story.header is not None
        yield story


def to_perfetto(work: Sequence[Recording], write: Write) -> Iterator[Account]:
    """One JSON document for Perfetto."""
    write(TraceEvents.opening)
    tracks, first = 0, True
    for recording in work:
        events = TraceEvents(write, tracks, first)
        story = Story(recording, events)
        story.tell()
        tracks, first = events.tracks + 1, events.first
        yield story
    write(TraceEvents.closing)
