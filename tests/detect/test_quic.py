from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.detect.quic import VERSIONS, client_keys, crypto_frames, initials, is_quic, unprotect
from tests.detect import hellos
from tests.detect.initials import ID, V1, V2, crypto, initial, varint

# RFC 9001 and RFC 9369, appendices A.1 and A.2.
HELLO = bytes.fromhex(
    "010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e86804fe3a47f06a2b69484c0000041301130201"
    "0000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007000504616c706e"
    "000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748"
    "002b0003020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffff"
    "ffff05048000ffff07048000ffff0801100104800075300901100f088394c8f03e51570806048000ffff"
)
KEYS = {
    V1: ("1f369613dd76d5467730efcbe3b1a22d", "fa044b2f42a3fd3b46fb255c", "9f50449e04a0e810283a1e9933adedd2"),
    V2: ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f", "45b95e15235d6f45a6b19cbcb0294ba9"),
}
PROTECTED = {
    V1: ("c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9b",
         "e221af44860018ab0856972e194cd934"),
    V2: ("d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071",
         "a18b2faa745b6fe189cf772a9f84cbfc"),
}  # fmt: skip


def heard(datagrams: list[tuple[int, bytes]], initiated: bool | None = True) -> list[Finding]:
    conversation, found = Conversation(initiated, "udp"), []
    for number, (direction, data) in enumerate(datagrams):
        found += conversation.segment(direction, 0, data, len(data), number, 0)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_keys_of_the_rfcs(version: int) -> None:
    assert [part.hex() for part in client_keys(VERSIONS[version], ID)] == list(KEYS[version])


@pytest.mark.parametrize("version", VERSIONS)
def test_packets_of_the_rfcs(version: int) -> None:
    """Beginning and authentication tag are the RFC's, so all of it is."""
    datagram = initial(b"\x06\x00" + varint(len(HELLO)) + HELLO, version)
    opening, tag = PROTECTED[version]
    assert len(datagram) == 1200
    assert datagram.startswith(bytes.fromhex(opening)) and datagram.endswith(bytes.fromhex(tag))
    (packet,) = initials(datagram)
    frames = unprotect(packet, client_keys(packet.version, packet.to))
    assert frames is not None and crypto_frames(frames) == [(0, HELLO)]
    (found,) = heard([(OUT, datagram)])
    assert found.protocol == "quic"
    assert found.attributes == {
        "Transport": "udp",
        "Role": "client",
        "ServerName": "example.com",
        "Alpn": ("alpn",),
        "Ja4": found.attributes["Ja4"],
        "TlsVersion": "1.3",
        "Stage": "asked",
    }
    assert str(found.attributes["Ja4"]).startswith("q13d0211an_")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_hello_in_two_datagrams_and_many_fragments(order: tuple[int, int]) -> None:
    pieces = [crypto(at, hellos.CHROME[at : at + 50]) for at in range(0, len(hellos.CHROME), 50)]
    pieces = pieces[::-1]
    ping, ack = b"\x01", b"\x02\x05\x00\x00\x00"
    halves = [initial(ping.join(pieces[part::2]) + ack, number=part) for part in (0, 1)]
    found = heard([(OUT, halves[part]) for part in order])
    assert [(one.attributes["ServerName"], one.attributes["Ja4"]) for one in found] == [
        ("late.example", "q" + hellos.CHROME_JA4[1:])
    ]


def test_a_half_that_never_came_leaves_the_rest_unknown() -> None:
    half = crypto(0, hellos.CHROME[:300])
    server = b"\xc0\0\0\0\1\0\0" + b"\0" + varint(1000) + bytes(1000)
    (found,) = heard([(OUT, initial(half)), (IN, server)])
    assert "ServerName" in found.cut and "ServerName" not in found.attributes


def test_a_tool_named_in_alpn_and_a_served_connection() -> None:
    hello = hellos.client_hello([0x1301], [hellos.alpn(b"argotunnel")])
    found = heard([(IN, initial(crypto(0, hello)))], initiated=False)
    assert [(one.protocol, one.attributes["Role"]) for one in found] == [
        ("quic", "server"),
        ("cloudflared", "server"),
    ]


def test_connections_of_one_socket_are_kept_apart() -> None:
    ids = [bytes([number]) * 8 for number in range(3)]
    hello = [hellos.client_hello([0x1301], [hellos.server_name(b"h%d" % n)]) for n in range(3)]
    firsts = [(IN, initial(crypto(0, hello[n][:40]), to=ids[n])) for n in range(3)]
    seconds = [(IN, initial(crypto(40, hello[n][40:]), to=ids[n])) for n in range(3)]
    found = heard(firsts + seconds, initiated=None)
    assert [one.attributes["ServerName"] for one in found] == ["h0", "h1", "h2"]


def test_what_is_not_authentic_is_nothing() -> None:
    datagram = initial(crypto(0, HELLO))
    assert is_quic(datagram)
    assert heard([(OUT, datagram[:-1] + b"\0")] * 20) == []
    assert not is_quic(datagram[:600])
    assert not is_quic(b"\xc3\0\0\0\2" + datagram[5:])


def test_packets_that_follow_others_in_a_datagram_are_found() -> None:
    zero_rtt = b"\xd0\0\0\0\1\x08" + ID + b"\0" + varint(30) + bytes(30)
    assert len(initials(zero_rtt + initial(crypto(0, HELLO)))) == 1


def test_flows_are_let_go_after_a_while() -> None:
    conversation = Conversation(True, "udp")
    for number in range(40):
        conversation.segment(OUT, 0, initial(b"\x01", size=100), 200, number, 0)
    assert conversation.finished


def test_the_library_is_loaded_by_who_sees_quic_only() -> None:
    code = "import sys, agentwatch.pipeline; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@given(st.binary(max_size=80), st.sampled_from([OUT, IN]))
def test_no_datagram_raises(data: bytes, direction: int) -> None:
    heard([(direction, b"\xc3\0\0\0\1" + data), (OUT, initial(data)), (IN, data)])


@given(st.binary(max_size=60))
def test_no_frames_raise(frames: bytes) -> None:
    crypto_frames(frames)
