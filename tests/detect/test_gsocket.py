from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.gsocket import is_gsocket
from tests.detect.talk import Talk

ADDRESS = bytes(range(100, 116))


def message(kind: int, flags: int = 0, address: bytes = ADDRESS) -> bytes:
    return bytes([kind, 1, 3, flags]) + bytes(12) + bytes(range(16)) + address + bytes(80)


@pytest.mark.parametrize("segment", [0, 1, 100])
@pytest.mark.parametrize("kind", [1, 2])
def test_listening_and_connecting(segment: int, kind: int) -> None:
    talk = Talk(segment=segment)
    talk.says(message(kind, flags=4))
    assert talk.seen("gsocket") == [
        {"Transport": "tcp", "Role": "client", "Behaviour": "tunnel_tool", "Method": "relay message"}
    ]


@pytest.mark.parametrize(
    "data",
    [
        message(3),
        message(1, flags=0x80),
        message(1, address=bytes(16)),
        message(1)[:-1] + b"x",
        b"\1\2" + message(1)[2:],
        b"\1\1\3\0\1",
    ],
)
def test_what_is_none(data: bytes) -> None:
    assert is_gsocket(data) is False


@given(st.binary(max_size=140))
def test_no_message_raises(data: bytes) -> None:
    is_gsocket(b"\1" + data)
    is_gsocket(b"\1\1\3\0" + bytes(12) + data)
