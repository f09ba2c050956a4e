"""Traces: the file of source records, its writer, its reader."""

from agentwatch.trace.error import TraceError
from agentwatch.trace.format import Batch, BatchKind, Layout, Round, TraceHeader
from agentwatch.trace.reader import Damage, DamageKind, TraceReader
from agentwatch.trace.store import Rotation, segment_paths
from agentwatch.trace.writer import TraceWriter, WriterStatus

__all__ = [
    "Batch",
    "BatchKind",
    "Damage",
    "DamageKind",
    "Layout",
    "Rotation",
    "Round",
    "TraceError",
    "TraceHeader",
    "TraceReader",
    "TraceWriter",
    "WriterStatus",
    "segment_paths",
]
