from __future__ import annotations

import json
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.json_stream import (
    KEPT_DEPTH,
    KEPT_ELEMENTS,
    MAX_NESTING,
    MAX_STRING,
    Json,
    JsonStream,
    Message,
)

NAMES = frozenset({"id", "method", "params", "result", "error"})


def read(data: bytes, size: int = 0) -> list[Message]:
    stream = JsonStream(NAMES)
    messages: list[Message] = []
    for at in range(0, len(data), size or len(data) or 1):
        messages += stream.feed(data[at : at + (size or len(data))])
    return messages


def pruned(value: Json, depth: int = 1) -> Json:
    """What is kept of a value that Python's own parser read."""
    if isinstance(value, dict):
        if depth > KEPT_DEPTH:
            return {}
        kept: dict[str, Json] = {}
        for name, member in value.items():
            if name.casefold() in NAMES:
                kept[name.casefold()] = pruned(member, depth + 1)
        return kept
    if isinstance(value, list):
        return [pruned(member, depth + 1) for member in value[:KEPT_ELEMENTS]] if depth <= KEPT_DEPTH else []
    return value[:MAX_STRING] if isinstance(value, str) else value


LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12)
VALUES: st.SearchStrategy[Json] = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*sorted(NAMES), "other", "METHOD", "\u212aey"]), inner, max_size=3)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from([*sorted(NAMES), "foreign"]), VALUES, max_size=5)


@given(OBJECTS, st.booleans(), st.integers(1, 40), st.sampled_from([None, 1]))
def test_agrees_with_pythons_parser(
    value: dict[str, Json], ascii_only: bool, size: int, indent: int | None
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert read(data, size) == [pruned(value)]


@given(st.lists(OBJECTS, min_size=1, max_size=4), st.sampled_from([b"", b"\n", b"\r\n", b"\0", b" \n "]))
def test_messages_follow_each_other(values: list[dict[str, Json]], separator: bytes) -> None:
    data = separator.join(json.dumps(value).encode() for value in values)
    assert read(data) == [pruned(value) for value in values]
    assert read(data, 1) == [pruned(value) for value in values]


@given(st.lists(OBJECTS, min_size=1, max_size=4))
def test_a_batch_is_its_messages(values: list[dict[str, Json]]) -> None:
    assert read(json.dumps(values).encode(), 3) == [pruned(value) for value in values]


def test_an_array_of_other_things_is_no_batch() -> None:
    assert read(b'["EVENT", {"method": "a"}]') == []
    assert read(b'[[{"method": "a"}], {"method": "b"}]') == []


def test_escapes_in_names_and_values_are_undone() -> None:
    assert read(rb'{"\u006dethod":"a\u002eb\/\ud83d\ude00"}') == [{"method": "a.b/\U0001f600"}]


def test_names_match_without_regard_to_case() -> None:
    assert read(b'{"METHOD":"a"}') == [{"method": "a"}]


def test_of_members_with_one_name_the_last_counts() -> None:
    assert read(b'{"method":"a","method":"b"}') == [{"method": "b"}]


def test_foreign_members_are_noted_at_the_top_only() -> None:
    (message,) = read(b'{"ts":1}')
    assert message.foreign
    (message,) = read(b'{"params":{"ts":1}}')
    assert not message.foreign


def test_a_line_that_is_no_json_is_skipped() -> None:
    for junk in (b"hello", b'{"method":}', b'{"method" "a"}', b'{"a":nul}', b"[1,]", b'{"a":tru', b"}"):
        assert read(junk + b'{"method":"x"}\n{"method":"a"}\n') == [{"method": "a"}], junk


def test_a_partial_message_tells_what_is_known() -> None:
    stream = JsonStream(NAMES)
    stream.feed(b'{"method":"a","params":[1,{"id":"b","re')
    assert stream.partial == {"method": "a", "params": [1, {"id": "b"}]}
    assert not stream.partial.complete
    stream.feed(b'sult":"unfini')
    assert stream.partial == {"method": "a", "params": [1, {"id": "b"}]}


def test_after_a_loss_reading_goes_on_at_the_next_line() -> None:
    stream = JsonStream(NAMES)
    stream.feed(b'{"params":"')
    stream.lose()
    assert stream.lost
    assert stream.feed(b'{"method":"inside"}"}\n{"method":"a"}') == [{"method": "a"}]


def test_names_at_the_top_are_kept_however_full_the_message_is() -> None:
    filler = ",".join(
        f'"params":{{{",".join(f"{chr(34)}id{chr(34)}:[{n}]" for n in range(50))}}}' for _ in range(9)
    )
    data = f'{{{filler},"method":"a"}}'.encode()
    (message,) = read(data)
    assert message["method"] == "a"


def test_nesting_is_followed_to_its_limit_and_given_up_beyond() -> None:
    deep = b"[" * (MAX_NESTING - 1) + b"]" * (MAX_NESTING - 1)
    assert read(b'{"other":' + deep + b',"method":"a"}')[0]["method"] == "a"
    deep = b"[" * (MAX_NESTING + 1)
    assert read(b'{"other":' + deep + b'\n{"method":"b"}') == [{"method": "b"}]


def test_memory_is_bounded() -> None:
    stream = JsonStream(NAMES)
    hostile = [b'{"params":[', *[b'"' + b"x" * 500 + b'",'] * 400, b'"', *[b"\\u0061" * 80] * 400]
    tracemalloc.start()
    for data in hostile:
        stream.feed(data)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 16 * 1024


@given(st.binary(max_size=200), st.integers(1, 30))
def test_any_bytes_read_alike_however_they_are_cut(data: bytes, size: int) -> None:
    assert read(data, size) == read(data)


TOKENS = st.lists(
    st.sampled_from([*'{}[],:"\\\n 1e-', '"method"', '"a"', "true", "nul", '{"id":']), max_size=40
)


@given(TOKENS, st.integers(1, 7))
def test_what_is_accepted_is_json(tokens: list[str], size: int) -> None:
    line = "".join(tokens).replace("\n", "")
    messages = read(line.encode(), size)
    try:
        value = json.loads(line)
    except ValueError:
        return
    if isinstance(value, dict):
        assert messages == [pruned(value)]


PIECES = st.sampled_from(
    [
        *b'"method": "METHOD": "params": "other": "a":1, "method":"a", "a" "\\u00e9" "\\ud800" "\\q"'.split(),
        *b"1 -0 1e5 1e999 NaN true nul [ ] { } , :".split(),
        *(b"\n", b"\0", b'"\t"', b'"\xff"', b'"' + b"x" * 300 + b'"'),
        *(b"[1,2,3,4,5,6,7,8,9]", b'[[[[[["a"]]]]]]', b'{"id":' * 7 + b"1" + b"}" * 7),
    ]
)


@given(st.lists(PIECES, max_size=12), st.sampled_from([b"", b"\n", b"\r\n", b"\n{}"]))
def test_a_message_that_comes_at_once_is_read_as_in_parts(pieces: list[bytes], end: bytes) -> None:
    data = b"{" + b"".join(pieces) + b"}" + end
    at_once, in_parts = read(data), read(data, 1)
    assert repr(at_once) == repr(in_parts)
    assert [(one.foreign, one.complete) for one in at_once] == [
        (one.foreign, one.complete) for one in in_parts
    ]
