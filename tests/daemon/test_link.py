"""The link between core and front: whole messages, and a reader that does not read."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.daemon import link as under_test
from agentwatch.daemon.link import Link, LinkError, Unpacker, pack

MESSAGES = st.lists(
    st.recursive(st.none() | st.integers(-(2**31), 2**31) | st.text(), lambda x: st.lists(x, max_size=3)),
    max_size=5,
)


@given(MESSAGES, st.integers(1, 20))
def test_messages_come_whole_however_the_bytes_are_cut(messages: list[Any], step: int) -> None:
    data = b"".join(map(pack, messages))
    unpacker, found = Unpacker(), []
    for begin in range(0, len(data), step):
        found += list(unpacker.feed(data[begin : begin + step]))
    assert found == messages


def test_a_text_that_is_no_utf8_travels() -> None:
    assert list(Unpacker().feed(pack(["\udcff"]))) == [["\udcff"]]


def test_a_length_that_no_message_has_is_an_error() -> None:
    with pytest.raises(LinkError):
        list(Unpacker().feed(b"\xff\xff\xff\xff"))


def test_what_the_other_side_does_not_take_waits_then_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_BACKLOG", 1 << 20)
    ours, theirs = socket.socketpair()
    link, payload = Link(ours), "x" * 10_000
    sent = [link.send([number, payload]) for number in range(1000)]
    taken = sent.index(False)
    assert link.dropped == sent.count(False)
    assert 0 < link.backlog <= 1 << 20
    theirs.settimeout(1)
    numbers: list[int] = []
    unpacker = Unpacker()
    while len(numbers) < taken:
        numbers += [number for number, _ in unpacker.feed(theirs.recv(1 << 16))]
        link.flush()
    assert numbers == list(range(taken))
    assert link.backlog == 0
    link.close()
    theirs.close()


def test_an_end_is_noticed() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)
    assert link.receive() == []
    theirs.sendall(pack(["hello"]))
    assert link.receive() == [["hello"]]
    theirs.close()
    with pytest.raises(LinkError):
        link.receive()
    with pytest.raises(LinkError):
        link.send(["x"])
    link.close()
