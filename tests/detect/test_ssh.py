from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.ssh import is_ssh
from tests.detect.talk import Talk


@pytest.mark.parametrize("segment", [0, 1, 4])
def test_both_banners(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.hears(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\x00\x00\x01")
    talk.says(b"SSH-2.0-paramiko_3.4\r\n")
    first, second = talk.seen("ssh")
    assert first == {"Transport": "tcp", "Role": "client", "Server": "OpenSSH_9.2p1 Debian-2"}
    assert second == {**first, "Client": "paramiko_3.4"}
    assert talk.conversation.finished


def test_a_server_may_say_something_before() -> None:
    talk = Talk()
    talk.says(b"SSH-2.0-cli\r\n")
    talk.hears(b"Welcome\r\nSSH-2.0-srv\n")
    assert talk.seen("ssh")[-1]["Server"] == "srv"


def test_accepted_flows_have_the_client_outside() -> None:
    talk = Talk(initiated=False)
    talk.says(b"SSH-2.0-srv\r\n")
    talk.hears(b"SSH-1.99-cli\r\n")
    assert talk.seen("ssh")[-1] == {"Transport": "tcp", "Role": "server", "Server": "srv", "Client": "cli"}


def test_flows_of_unknown_origin() -> None:
    talk = Talk(initiated=None)
    talk.says(b"SSH-2.0-a\r\n")
    talk.hears(b"SSH-2.0-b\r\n")
    assert talk.seen("ssh")[-1] == {"Transport": "tcp", "Software": "a", "PeerSoftware": "b"}


def test_a_banner_without_end_is_bounded() -> None:
    talk = Talk()
    talk.says(b"SSH-2.0-" + b"x" * 5000)
    assert len(str(talk.seen("ssh")[0]["Client"])) <= 256


def test_what_is_no_banner() -> None:
    assert is_ssh(b"SSH-3.0-x") is False
    assert is_ssh(b"SSHFP") is False
    assert is_ssh(b"SSH-2.") is None


@given(st.binary(max_size=60))
def test_no_banner_raises(data: bytes) -> None:
    talk = Talk(segment=7)
    talk.says(b"SSH-2.0-" + data)
    talk.hears(b"SSH-" + data)
