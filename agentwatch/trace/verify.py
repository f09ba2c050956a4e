"""Whether a trace is whole, unchanged, and signed by whom."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import BinaryIO

from agentwatch.trace.error import TraceError
from agentwatch.trace.format import Frame, FrameType, TraceHeader, expand
from agentwatch.trace.reader import Damage, DamageKind, TraceReader
from agentwatch.trace.sign import Signature, can_sign
from agentwatch.trace.summary import Summariser


@dataclass(slots=True)
class Report:
    """What `verify` found.

    `signed_through` is the number of the last frame that a good signature covers, and with it
    everything before; None where there is none. `signers` are the public keys of the good
    signatures, of keys that are trusted where some were named. `bad_signatures` counts the others,
    those that could not be checked for want of the `cryptography` package included.
    """

    header: TraceHeader
    frames: int = 0
    rounds: int = 0
    records: int = 0
    first_time: int = 0
    last_time: int = 0
    stored_bytes: int = 0
    closed: bool = False
    digest: bytes = b""
    damage: list[Damage] = field(default_factory=list)
    signatures: int = 0
    bad_signatures: int = 0
    signed_through: int | None = None
    signers: set[bytes] = field(default_factory=set)

    @property
    def whole(self) -> bool:
        """Nothing is missing and nothing was changed since the file was written."""
        return not self.damage and not self.bad_signatures

    def follows(self, earlier: Report) -> bool:
        """Whether this file is the next one of the recording that `earlier` is a file of."""
        expected = earlier.header.segment + 1, earlier.digest, earlier.header.boot_id
        return expected == (self.header.segment, self.header.previous, self.header.boot_id)


def verify(source: str | os.PathLike[str] | BinaryIO, trusted: Collection[bytes] = ()) -> Report:
    """Read a trace to its end and check all that can be checked without decoding records.

    `trusted` are raw Ed25519 public keys; without any, a good signature by any key counts as
    good, and it is for the reader of `signers` to know whose it is. Raises `TraceError` where
    the source cannot be opened as a trace.
    """
    with TraceReader(source) as reader:
        report = Report(reader.header)
        summarise = Summariser(reader.header.layouts, reader.header.byte_order)
        last = -1
        for frame in reader.frames():
            report.frames += 1
            last = frame.seq
            if frame.body.type == FrameType.ROUNDS:
                _check_rounds(reader, frame, summarise, report)
            elif frame.body.type == FrameType.SIGNATURE:
                _check_signature(frame, trusted, report)
        report.damage = reader.damage
        report.closed = reader.ended is not None
        report.digest, report.stored_bytes = reader.digest, reader.offset
        _check_totals(reader, report)
        if report.closed and trusted and report.signed_through != last - 1:
            detail = "no good signature over the end"
            reader.damage.append(Damage(DamageKind.UNSIGNED, reader.offset, 0, detail))
    return report


def _check_rounds(reader: TraceReader, frame: Frame, summarise: Summariser, report: Report) -> None:
    body = frame.body
    known = len(reader.damage)
    summary = summarise(reader.rounds(frame))
    report.rounds += body.rounds
    report.records += summary.records
    said = (body.records, body.first_time, body.last_time, body.summary)
    found = (summary.records, summary.first_time, summary.last_time, summary.pack())
    if said != found and len(reader.damage) == known:
        detail = "frame's head or summary does not tell what it holds"
        reader.damage.append(Damage(DamageKind.MALFORMED, frame.offset, frame.size, detail))
    if summary.records:
        report.first_time = min(report.first_time or summary.first_time, summary.first_time)
        report.last_time = max(report.last_time, summary.last_time)


def _check_signature(frame: Frame, trusted: Collection[bytes], report: Report) -> None:
    report.signatures += 1
    try:
        signature = Signature.unpack(expand(frame.body))
        known = not trusted or signature.public_key in trusted
        good = known and can_sign() and signature.covers(frame.previous)
    except TraceError:
        good = False
    if good:
        report.signed_through = frame.seq - 1
        report.signers.add(signature.public_key)
    else:
        report.bad_signatures += 1


def _check_totals(reader: TraceReader, report: Report) -> None:
    """Compare the end's totals where nothing is missing that would explain a difference."""
    if reader.damage or reader.ended is None:
        return
    said = {name: reader.ended.get(name) for name in ("rounds", "records")}
    if said != {"rounds": report.rounds, "records": report.records}:
        detail = "the end's totals are not those of the frames"
        reader.damage.append(Damage(DamageKind.MALFORMED, reader.offset, 0, detail))
