from __future__ import annotations

import gc
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.conversation import MAX_DATAGRAMS, MAX_FINDINGS, Conversation
from agentwatch.detect.finding import IN, OUT
from tests.detect.talk import Talk

SUBSCRIBE = b'{"id":1,"method":"mining.subscribe","params":[]}\n'


def test_retransmission_and_reordering_change_nothing() -> None:
    conversation = Conversation(True)
    pieces = [(at, SUBSCRIBE[at : at + 5]) for at in range(0, len(SUBSCRIBE), 5)]
    order = [pieces[0], *reversed(pieces), *pieces]
    found = []
    for at, data in order:
        found += conversation.segment(OUT, 7 + at, data, len(data), 0, 0)
    assert [finding.protocol for finding in found] == ["stratum"]


def test_a_segment_held_back_is_read_when_the_other_side_speaks() -> None:
    conversation = Conversation(True)
    conversation.segment(OUT, 0, b"{", 1, 0, 0)
    assert conversation.segment(OUT, 5, b"x\n" + SUBSCRIBE, 2 + len(SUBSCRIBE), 0, 0) == []
    assert conversation.segment(IN, 0, b"{", 1, 0, 0) != []


def test_what_is_opaque_is_finished_at_once() -> None:
    talk = Talk()
    talk.says(b"Content-Type: application/vscode-jsonrpc\r\n")
    assert talk.seen("lsp") == [{"Transport": "tcp", "Role": "client"}]
    assert talk.conversation.finished
    assert talk.says(SUBSCRIBE) == []


def test_language_servers_are_told_by_their_first_line() -> None:
    talk = Talk()
    talk.says(b"Content-Length: 49\r\n\r\n" + SUBSCRIBE)
    talk.hears(b"{}\n")
    talk.says(SUBSCRIBE)
    assert [finding.protocol for finding in talk.findings] == ["lsp"]


def test_a_conversation_joined_in_its_middle() -> None:
    talk = Talk(initiated=None)
    talk.hears(b'f","x"]}\n' + SUBSCRIBE)
    talk.says(b'{"id":1,"result":true}\n')
    assert talk.hears(SUBSCRIBE) != []
    assert talk.seen("stratum")[0]["Role"] == "server"


def test_unix_streams_have_no_sequence_numbers() -> None:
    conversation = Conversation(True, "unix")
    found = []
    for at in range(len(SUBSCRIBE)):
        found += conversation.segment(OUT, 0, SUBSCRIBE[at : at + 1], 1, 0, 0)
    assert [finding.attributes["Transport"] for finding in found] == ["unix"]


def test_datagrams_that_are_nothing_are_let_go() -> None:
    conversation = Conversation(True, "udp")
    for number in range(MAX_DATAGRAMS):
        assert not conversation.finished
        assert conversation.segment(OUT, 0, SUBSCRIBE, len(SUBSCRIBE), number, 0) == []
    assert conversation.finished


def test_proxies_nest() -> None:
    talk = Talk()
    talk.says(b"\x05\x01\x00")
    talk.hears(b"\x05\x00")
    talk.says(b"\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x90")
    talk.hears(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
    talk.says(b"CONNECT pool.example:3333 HTTP/1.1\r\n\r\n")
    talk.hears(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.says(SUBSCRIBE)
    assert talk.seen("stratum") == [
        {
            "DestinationHostname": "pool.example",
            "DestinationPort": 3333,
            "Transport": "socks5>connect>tcp",
            "Role": "client",
            "Dialect": "bitcoin",
            "Method": "mining.subscribe",
            "Stage": "asked",
        }
    ]


def test_findings_are_bounded() -> None:
    talk = Talk()
    for number in range(2 * MAX_FINDINGS):
        talk.says(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nHost: h%d\r\n\r\n" % number)
        talk.hears(b"HTTP/1.1 400 no\r\nContent-Length: 0\r\n\r\n")
    assert len(talk.findings) == MAX_FINDINGS


HOSTILE = (
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100,
    b"CONNECT " + b"x" * 500,
    b'{"params":[' + b'"aaaaaaaaaaaaaaaaaaaaaaaaaaaa",' * 16,
    b"SSH-" + b"x" * 500,
    b"\x04\x01\x00\x50\x00\x00\x00\x01" + b"u" * 500,
    b"\x82\xfe\xff\xff\x01\x02\x03\x04z" + b"x" * 500,
    b"\x00\x00\x00\xff\x04\x00\x00\x02\x00\x02\x00" + b"\x01" * 500,
    b"Zxxx" * 128,
    b"shake~{" + b'"agent":"x",' * 40,
)


def test_memory_is_bounded() -> None:
    for opening in HOSTILE:
        tracemalloc.start()
        conversation = Conversation(True)
        for number in range(400):
            for direction in (OUT, IN):
                seq = number * 1024 + (number % 3) * 7  # with holes that fill, and some that do not
                conversation.segment(direction, seq, opening[:512], 512, number // 20, 0)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used < 24 * 1024, (opening[:10], used)


OPENINGS = st.sampled_from(
    [
        b"",
        b"{",
        b'[{"method":"login",',
        b"GET / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"SSH-2.0-",
        b"\x05\x01\x00",
        b"\x05\x01\x00\x03\x01a\x00\x01",
        b"\x05\x00\x05\x00\x00\x01",
        b"\x04\x01\x00\x50\x00\x00\x00\x01u\x00h\x00",
        b"\x00\x5a\x00\x00\x00\x00\x00\x00",
        b"\x81\x85\x00\x00\x00\x00{",
        b"\xc1\x05",
        b"\x00\x00\x00\x30\x00\x00\x00\x02\x00\x02\x00",
        b"shake~{",
        bytes(range(64)),
        bytes(range(234)),
    ]
)
RECORDS = st.tuples(
    st.sampled_from([OUT, IN]),
    st.integers(0, 60),
    OPENINGS,
    st.binary(max_size=12),
    st.sampled_from([0, 0, 0, 1, 100]),
    st.integers(0, 3),
)


@given(st.lists(RECORDS, max_size=12), st.sampled_from([True, False, None]), st.sampled_from(["tcp", "unix"]))
def test_no_records_raise(
    records: list[tuple[int, int, bytes, bytes, int, int]], initiated: bool | None, transport: str
) -> None:
    conversation = Conversation(initiated, transport)
    for direction, seq, opening, rest, cut, message in records:
        data = opening + rest
        conversation.segment(direction, seq, data, len(data) + cut, message, 0)


@given(
    st.sampled_from([OUT, IN]),
    st.lists(st.tuples(OPENINGS, st.binary(max_size=12)), max_size=6),
    st.integers(1, 9),
)
def test_the_size_of_segments_changes_nothing(
    direction: int, parts: list[tuple[bytes, bytes]], segment: int
) -> None:
    """Of one side alone. (Where both talk nonsense, what is made of it may hang on who was read first.)"""
    whole, cut = Talk(), Talk(segment=segment)
    data = b"".join(opening + rest for opening, rest in parts)
    whole.passes(direction, data)
    cut.passes(direction, data)
    assert [found for found in cut.findings if found.protocol != "stratum"] == [
        found for found in whole.findings if found.protocol != "stratum"
    ]


def test_what_is_over_is_no_rubbish_for_the_collector() -> None:
    conversation = Conversation(True)
    conversation.segment(OUT, 1, b"GET / HTTP/1.1\r\n", 16, 1, 0)
    gc.collect()
    conversation.end()
    del conversation
    assert gc.collect() == 0
