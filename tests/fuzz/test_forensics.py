"""Nothing that a trace can hold makes a story, a page or an export fail, or lets a string act."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwatch.forensics.account import Account
from agentwatch.forensics.blame import Blame, Wanted
from agentwatch.forensics.export import to_lines, to_pcapng, to_perfetto
from agentwatch.forensics.report import Page
from agentwatch.forensics.story import Story
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import EVENTS, SLOT_SIZE, Ring, Type
from agentwatch.sources.base import Batch, BatchKind, Round
from tests.forensics.samples import agent, recorded

_NOTES = [event for event in EVENTS if event.ring is Ring.NOTES and event.number != Type.RULES]
_SLOTS = [event for event in EVENTS if event.ring is Ring.SLOTS]
_RECORDS = [event for event in EVENTS if event.ring is Ring.RECORDS]
_VALUES = {
    "str": st.text(max_size=20),
    "bytes": st.binary(max_size=20),
    "strs": st.lists(st.text(), max_size=3),
}
_ANY = st.one_of(st.integers(0, 300), st.integers(-(2**63), 2**64 - 1))
_FEW = st.integers(0, 4)  # processes, agents and cookies meet
_HEADER = struct.Struct("<QHHIIIQ")


@st.composite
def note(draw: st.DrawFn) -> Round:
    event = draw(st.sampled_from(_NOTES))
    fields = (draw(_VALUES.get(field.type, _ANY)) for field in event.fields)
    row = (event.number, draw(_ANY), draw(_FEW), draw(st.one_of(_FEW, _ANY)), draw(_FEW), *fields)
    return (Batch(BatchKind.NOTES, pack_notes([row])),)


@st.composite
def kernel(draw: st.DrawFn, ring: Ring) -> Round:
    """A record whose header makes sense and whose body need not."""
    event = draw(st.sampled_from(_SLOTS if ring is Ring.SLOTS else _RECORDS))
    time, flags = draw(st.one_of(st.integers(0, 10**12), st.integers(0, 2**64 - 1))), draw(st.integers(0, 7))
    head = _HEADER.pack(time, event.number, flags, draw(_FEW), draw(_FEW), draw(_FEW), draw(_FEW))
    cookie = struct.pack("<Q", draw(_FEW))
    content = head + cookie + draw(st.binary(max_size=120))
    if ring is Ring.SLOTS:
        framed = struct.pack("<II", SLOT_SIZE - 8, 0) + content[: SLOT_SIZE - 8].ljust(SLOT_SIZE - 8, b"\1")
        return (Batch(BatchKind.SLOTS, framed),)
    framed = struct.pack("<II", len(content), 0) + content
    return (Batch(BatchKind.RECORDS, framed + bytes(-len(framed) % 8)),)


ROUNDS = st.lists(st.one_of(note(), kernel(Ring.SLOTS), kernel(Ring.RECORDS)), max_size=12)


def _page(path: Path) -> bytes:
    page = Page()
    story = Story((path,), *page.listeners)
    story.tell()
    return "".join(page.parts(story)).encode("utf-8", "backslashreplace")


def _exported(make: Callable[[Any, Any], Iterator[Account]], path: Path) -> bytes:
    file = io.BytesIO()
    for _ in make([(path,)], file.write):
        pass
    return file.getvalue()


def _blamed(path: Path) -> None:
    for wanted in (Wanted(), Wanted(file="a"), Wanted(address="0.0.0.0")):
        blame = Blame(wanted)
        Story((path,), blame).tell()
        for case in blame.cases:
            assert blame.steps(case)


@settings(max_examples=150, deadline=None)
@given(ROUNDS)
def test_no_record_makes_an_answer_fail(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[Round]
) -> None:
    path = recorded(tmp_path_factory.mktemp("hostile"), [agent(), *rounds])
    html = _page(path).decode()
    assert html.count("<section") == html.count("</section>") and "\x1b" not in html
    json.loads(_exported(to_perfetto, path))
    assert _exported(to_pcapng, path)[:4] == b"\x0a\x0d\x0d\x0a"
    for line in _exported(to_lines, path).splitlines():
        json.loads(line)
    _blamed(path)


@settings(max_examples=30, deadline=None)
@given(ROUNDS)
def test_no_record_makes_parquet_fail(tmp_path_factory: pytest.TempPathFactory, rounds: list[Round]) -> None:
    pytest.importorskip("pyarrow", reason="PyArrow is not installed (the extra query)")
    from agentwatch.forensics.export import to_parquet  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("hostile")
    to_parquet((recorded(folder, [agent(), *rounds]),), folder / "out")
    assert any((folder / "out").rglob("*.parquet"))
