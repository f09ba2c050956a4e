from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.ssh import hassh, is_ssh
from tests.detect.talk import Talk


@pytest.mark.parametrize("segment", [0, 1, 4])
def test_both_banners(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.hears(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    talk.says(b"SSH-2.0-paramiko_3.4\r\n")
    first, second = talk.seen("ssh")
    assert first == {"Transport": "tcp", "Role": "client", "Server": "OpenSSH_9.2p1 Debian-2"}
    assert second == {**first, "Client": "paramiko_3.4"}


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


LISTS = (b"kex-a,kex-b", b"keys", b"enc-c", b"enc-s", b"mac-c", b"mac-s", b"none", b"zlib", b"", b"")
CLIENT_DIGEST = hashlib.md5(b"kex-a,kex-b;enc-c;mac-c;none").hexdigest()
SERVER_DIGEST = hashlib.md5(b"kex-a,kex-b;enc-s;mac-s;zlib").hexdigest()


def kexinit(lists: tuple[bytes, ...] = LISTS) -> bytes:
    """A packet (RFC 4253, 6) that holds a KEXINIT (7.1)."""
    payload = b"\x14" + bytes(16) + b"".join(len(one).to_bytes(4, "big") + one for one in lists) + bytes(5)
    padding = 8 - (len(payload) + 5) % 8 + 4
    return (len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


@pytest.mark.parametrize("segment", [0, 1, 40])
def test_digests_of_both_sides(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.hears(b"SSH-2.0-srv\r\n")
    talk.says(b"SSH-2.0-cli\r\n" + kexinit())
    talk.hears(kexinit())
    last = talk.seen("ssh")[-1]
    assert (last["Hassh"], last["HasshServer"]) == (CLIENT_DIGEST, SERVER_DIGEST)
    assert (last["Client"], last["Server"]) == ("cli", "srv")
    assert talk.conversation.finished


def test_the_digest_that_others_publish_for_openssh_9_6() -> None:
    kex = (
        b"sntrup761x25519-sha512@openssh.com,curve25519-sha256,curve25519-sha256@libssh.org,"
        b"ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,"
        b"diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,diffie-hellman-group14-sha256,"
        b"ext-info-c,kex-strict-c-v00@openssh.com"
    )
    ciphers = (
        b"chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,"
        b"aes256-gcm@openssh.com"
    )
    macs = (
        b"umac-64-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-256-etm@openssh.com,"
        b"hmac-sha2-512-etm@openssh.com,hmac-sha1-etm@openssh.com,umac-64@openssh.com,"
        b"umac-128@openssh.com,hmac-sha2-256,hmac-sha2-512,hmac-sha1"
    )
    compression = b"none,zlib@openssh.com,zlib"
    talk = Talk()
    talk.says(
        b"SSH-2.0-OpenSSH_9.6p1\r\n"
        + kexinit((kex, b"k", ciphers, b"other", macs, b"other", compression, b"none", b"", b""))
    )
    assert talk.seen("ssh")[-1]["Hassh"] == "aae6b9604f6f3356543709a376d7f657"


def test_the_digests_of_a_served_session() -> None:
    talk = Talk(initiated=False)
    talk.says(b"SSH-2.0-srv\r\n" + kexinit())
    talk.hears(b"SSH-2.0-cli\r\n" + kexinit())
    last = talk.seen("ssh")[-1]
    assert (last["Hassh"], last["HasshServer"]) == (CLIENT_DIGEST, SERVER_DIGEST)


def test_of_lists_that_were_cut_there_is_no_digest() -> None:
    talk = Talk()
    talk.says(b"SSH-2.0-cli\r\n")
    talk.hears(b"SSH-2.0-srv\r\n")
    talk.says(kexinit((b"x" * 600, *LISTS[1:])), captured=512)
    talk.hears(kexinit()[:4] + b"\x04\x15" + bytes(60))
    assert all(found.keys() <= {"Transport", "Role", "Client", "Server"} for found in talk.seen("ssh"))
    assert talk.conversation.finished
    assert hassh(kexinit()[5:-30], True) == ""


def test_chisel_names_itself() -> None:
    talk = Talk()
    talk.says(b"SSH-chisel-v3-client\r\n")
    assert [found.protocol for found in talk.findings] == ["ssh", "chisel"]


def test_what_is_no_banner() -> None:
    assert is_ssh(b"SSH-3.0-x") is False
    assert is_ssh(b"SSHFP") is False
    assert is_ssh(b"SSH-2.") is None


@given(st.binary(max_size=60))
def test_no_banner_raises(data: bytes) -> None:
    talk = Talk(segment=7)
    talk.says(b"SSH-2.0-" + data)
    talk.hears(b"SSH-" + data)
    talk = Talk()
    talk.says(b"SSH-2.0-x\n" + data)
    talk.hears(b"SSH-2.0-x\n\0\0\0\x40\4\x14" + data)
