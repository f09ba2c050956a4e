from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.typed import LINES_KEPT, RECENT_NS, Typed, is_prompt


def typed(*lines: bytes, whole: bool = True) -> Typed:
    one = Typed()
    for time, line in enumerate(lines):
        one.receive(line, whole, time)
    return one


@pytest.mark.parametrize(
    "line", [b"id -u\n", b"id -u\r\n", b"id -u", b"  id -u \n", b"\x00\x00\x05id -u", b"x\nid -u\ny\n"]
)
def test_the_line_is_the_command(line: bytes) -> None:
    assert typed(line).is_order(["id -u"], 1)
    assert typed(line).is_order(["id -u 2>&1"], 1)


@pytest.mark.parametrize(
    "line", [b"run id -u\n", b'{"run":"id -u"}', b"id", b"", b"\xff\xfe\x01\x02\x03", b"$5\r\nid -u\r\n"]
)
def test_the_line_is_not_the_command(line: bytes) -> None:
    assert not typed(line).is_order(["id -u"], 1)


def test_a_script_is_taken_by_its_first_line() -> None:
    assert typed(b"cd /tmp\nid\n").is_order(["cd /tmp\nid\n"], 1)


def test_a_cut_line_is_compared_as_far_as_it_goes() -> None:
    assert typed(b"find / -name secret", whole=False).is_order(["find / -name secrets -print"], 1)
    assert not typed(b"find", whole=False).is_order(["find / -name x"], 1)
    assert not typed(b"find / -name secret").is_order(["find / -name secrets -print"], 1)


def test_lines_grow_old_and_are_few() -> None:
    one = typed(b"id\n")
    assert one.is_order(["id"], RECENT_NS)
    assert not one.is_order(["id"], RECENT_NS + 1)
    one = typed(b"id\n", *[b"x\n"] * LINES_KEPT)
    assert not one.is_order(["id"], 1)


def test_a_shell_may_resolve_what_was_typed() -> None:
    one = typed(b"cd /tmp; grep 'a b' $FILE | wc -l\n")
    assert one.mentions(["grep", "a b", "/etc/x"], 1)
    assert one.mentions(["wc", "-l"], 1)
    assert not one.mentions(["wc"], 1)
    assert not one.mentions(["b", "x"], 1)
    assert not one.mentions([], 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"$ ", True),
        (b"root@host:~# ", True),
        (b"\x1b[?2004hroot@host:/# ", True),
        (b"~ % \x1b[K\x1b[?2004h", True),
        (b"sh: 0: can't access tty; job control turned off\n", True),
        (b"it costs $5", False),
        (b"# heading\n", False),
        (b"", False),
    ],
)
def test_prompts(data: bytes, expected: bool) -> None:
    assert is_prompt(data) == expected


@given(st.lists(st.binary(max_size=2000), max_size=20), st.booleans(), st.lists(st.text(), max_size=3))
def test_any_bytes(data: list[bytes], whole: bool, argv: list[str]) -> None:
    one = typed(*data, whole=whole)
    one.is_order(argv, len(data))
    one.mentions(argv, len(data))
    assert all(is_prompt(part) in (True, False) for part in data)
