from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.bore import is_bore
from tests.detect.talk import Talk

UUID = b"0190aaaa-bbbb-cccc-dddd-eeeeffff0000"


@pytest.mark.parametrize("segment", [0, 1])
def test_the_control_connection(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(b'{"Hello":0}\0')
    talk.hears(b'{"Hello":40123}\0"Heartbeat"\0{"Connection":"' + UUID + b'"}\0')
    assert [found["Behaviour"] for found in talk.seen("bore")] == ["tunnel_tool"]
    assert [found.protocol for found in talk.findings] == ["bore"]


def test_with_a_secret_the_server_speaks_first() -> None:
    talk = Talk()
    talk.hears(b'{"Challenge":"' + UUID + b'"}\0')
    talk.says(b'{"Authenticate":"' + b"ab" * 32 + b'"}\0{"Hello":8000}\0')
    assert len(talk.seen("bore")) == 1


def test_what_goes_through_it_is_read() -> None:
    talk = Talk()
    talk.says(b'{"Accept":"' + UUID + b'"}\0')
    talk.hears(b"SSH-2.0-cli\r\n")
    assert [found.protocol for found in talk.findings] == ["bore", "ssh"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"Hello":"world"}\0',
        b'{"Hello":1}\n',
        b'{"hello":1}\0',
        b'{"Accept":"text/html"}\0',
        b'{"Hello":' + b"1" * 99,
    ],
)
def test_other_json_is_none(data: bytes) -> None:
    assert is_bore(data) is False


@given(st.binary(max_size=60))
def test_no_message_raises(data: bytes) -> None:
    talk = Talk(segment=9)
    talk.says(b'{"Hello":' + data)
    talk.says(b'{"Hello":1}\0' + data)
    talk.hears(data)
