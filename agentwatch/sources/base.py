"""What every source of records gives: rounds of batches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class BatchKind(IntEnum):
    """How the bytes of a batch are laid out. The numbers are part of the trace format."""

    SLOTS = 1  # fixed 128-byte slots as they lay in the kernel's ring
    RECORDS = 2  # records of variable length as they lay in the kernel's ring
    NOTES = 3  # msgpack array of records that user space made


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one kind, as they came."""

    kind: BatchKind
    data: bytes


Round = tuple[Batch, ...]
"""The batches that are folded together: what one poll of the live source found."""
