from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.enrich.streams import PENDING_BYTES, Chunk, Stream

STARTS = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 40, 2**32 - 1))


def feed(
    stream: Stream, seq: int, data: bytes, message: int = 0, wire_length: int | None = None
) -> list[Chunk]:
    length = len(data) if wire_length is None else wire_length
    start = stream.follows(seq, data, length, message)
    return [Chunk(data, False, start == 1)] if start >= 0 else list(stream.feed(seq, data, length, message))


def test_segments_in_order_come_out_as_they_are() -> None:
    stream = Stream()
    assert feed(stream, 100, b"ab") == [Chunk(b"ab", False, True)]
    assert feed(stream, 102, b"c") == [Chunk(b"c", False, False)]
    assert feed(stream, 103, b"d", message=1) == [Chunk(b"d", False, True)]


def test_a_retransmission_yields_nothing() -> None:
    stream = Stream()
    feed(stream, 100, b"abc")
    assert feed(stream, 100, b"abc") == []
    assert feed(stream, 101, b"b") == []


def test_of_differing_copies_the_first_wins() -> None:
    stream = Stream()
    feed(stream, 100, b"abc")
    assert feed(stream, 101, b"XYd") == [Chunk(b"d", False, False)]


def test_a_held_copy_is_not_replaced() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    assert feed(stream, 2, b"cd") == []
    assert feed(stream, 2, b"XY") == []
    assert b"".join(chunk.data for chunk in feed(stream, 1, b"b")) == b"bcd"


def test_sequence_numbers_wrap() -> None:
    stream = Stream()
    feed(stream, 2**32 - 2, b"ab")
    assert feed(stream, 0, b"c") == [Chunk(b"c", False, False)]
    assert feed(stream, 2**32 - 1, b"bcd") == [Chunk(b"d", False, False)]


def test_a_hole_waits_within_a_message() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    assert feed(stream, 2, b"c") == []
    assert stream.waiting
    assert feed(stream, 1, b"b") == [Chunk(b"b", False, False), Chunk(b"c", False, False)]
    assert not stream.waiting


def test_a_later_message_ends_the_waiting() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    feed(stream, 2, b"c")
    assert feed(stream, 9, b"z", message=1) == [Chunk(b"c", True, False), Chunk(b"z", True, True)]


def test_flush_ends_the_waiting() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    feed(stream, 5, b"f")
    feed(stream, 2, b"c")
    assert stream.flush() == [Chunk(b"c", True, False), Chunk(b"f", True, False)]


def test_waiting_is_bounded() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    out: list[Chunk] = []
    for index in range(1 + PENDING_BYTES // 512):
        out += feed(stream, 2 + 512 * index, b"x" * 512)
    assert sum(len(chunk.data) for chunk in out) == PENDING_BYTES + 512
    assert [chunk.gap for chunk in out] == [True] + [False] * (len(out) - 1)
    assert not stream.waiting


def test_a_cut_is_told_at_once() -> None:
    stream = Stream()
    assert feed(stream, 0, b"ab", wire_length=100) == [Chunk(b"ab", False, True), Chunk(b"", True, False)]
    assert feed(stream, 100, b"c") == [Chunk(b"c", False, False)]


def test_a_packet_of_which_nothing_was_captured_is_a_gap() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    assert feed(stream, 1, b"", wire_length=50)[-1] == Chunk(b"", True, False)
    assert feed(stream, 51, b"z") == [Chunk(b"z", False, False)]


def test_an_empty_segment_yields_nothing() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    assert feed(stream, 1, b"") == []


def test_a_sample_from_far_ahead_in_the_stream_is_read() -> None:
    stream = Stream()
    feed(stream, 0, b"a")
    for message, seq in ((1, 1_000_000), (2, 3_000_000_000), (3, 2_000_000_000)):
        assert feed(stream, seq, b"z", message) == [Chunk(b"z", True, True)]


@given(STARTS, st.binary(min_size=1, max_size=60), st.data())
def test_any_order_and_overlap_gives_the_bytes_back(start: int, content: bytes, data: st.DataObject) -> None:
    stream = Stream()
    got = b"".join(chunk.data for chunk in feed(stream, start, content[:1]))
    pieces = data.draw(
        st.lists(st.tuples(st.integers(0, len(content)), st.integers(1, len(content))), max_size=20)
    )
    every_byte = data.draw(st.permutations(range(len(content))))
    for at, length in [*pieces, *((at, 1) for at in every_byte)]:
        for chunk in feed(stream, (start + at) % 2**32, content[at : at + length]):
            assert not chunk.gap
            got += chunk.data
    assert got == content


SEGMENTS = st.lists(
    st.tuples(st.integers(0, 180), st.integers(0, 40), st.integers(0, 30), st.integers(0, 5)), max_size=40
)


@given(STARTS, SEGMENTS)
def test_what_comes_out_is_the_stream_with_gaps_marked(
    start: int, segments: list[tuple[int, int, int, int]]
) -> None:
    content = bytes(range(256))  # so a byte's value is its place
    stream = Stream()
    chunks: list[Chunk] = []
    for at, captured, cut, message in segments:
        chunks += feed(stream, (start + at) % 2**32, content[at : at + captured], message, captured + cut)
    chunks += stream.flush()
    position, gap = (segments[0][0] if segments else 0), False
    for chunk in chunks:
        gap = gap or chunk.gap
        if chunk.data:
            place = chunk.data[0]
            assert place > position if gap else place == position
            assert chunk.data == content[place : place + len(chunk.data)]
            position, gap = place + len(chunk.data), False


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32), st.binary(max_size=8), st.integers(0, 2**31), st.integers(-1, 9))
    )
)
def test_nothing_raises(segments: list[tuple[int, bytes, int, int]]) -> None:
    stream = Stream()
    for seq, data, wire_length, message in segments:
        stream.feed(seq, data, wire_length, message)
    stream.flush()
