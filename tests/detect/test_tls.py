from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.tls import Hello, is_tls, ja4, parse_client_hello
from tests.detect import hellos
from tests.detect.hellos import CHROME, CHROME_JA4, client_hello, records, server_hello
from tests.detect.talk import Talk


@pytest.mark.parametrize("segment", [0, 1, 1400])
@pytest.mark.parametrize("size", [16384, 64])
def test_a_client_hello_is_read_over_records_and_segments(segment: int, size: int) -> None:
    assert len(CHROME) > 1460
    talk = Talk(segment=segment)
    talk.says(records(CHROME, size))
    assert talk.seen("tls") == [
        {
            "Transport": "tcp",
            "Role": "client",
            "TlsVersion": "1.3",
            "Stage": "asked",
            "ServerName": "late.example",
            "Alpn": ("h2", "http/1.1"),
            "Ja4": CHROME_JA4,
        }
    ]


@pytest.mark.parametrize(
    ("version", "chosen", "alpn"),
    [(ssl.TLSVersion.TLSv1_3, "1.3", ("http/1.1", "h2")), (ssl.TLSVersion.TLSv1_2, "1.2", ("http/1.1",))],
)
def test_both_hellos_of_openssl(
    tmp_path: Path, version: ssl.TLSVersion, chosen: str, alpn: tuple[str, ...]
) -> None:
    asked, answered = hellos.openssl_exchange(tmp_path, "some.example", ["http/1.1", "h2"], version)
    talk = Talk()
    talk.says(asked)
    talk.hears(answered)
    first, second = talk.seen("tls")
    assert (first["ServerName"], first["TlsVersion"]) == ("some.example", "1.3")
    assert second["TlsVersion"] == chosen
    assert second["Alpn"] == alpn  # what was chosen shows in TLS 1.2 only
    assert second["Ja4"] == first["Ja4"] and second["ServerName"] == "some.example"
    assert (first["Stage"], second["Stage"]) == ("asked", "answered")
    assert talk.conversation.finished


def test_neither_name_nor_alpn_and_the_watched_process_serves() -> None:
    talk = Talk(initiated=False)
    talk.hears(hellos.openssl_client(None))
    talk.says(records(server_hello(0xC02F, [])))
    first, second = talk.seen("tls")
    assert first["Role"] == second["Role"] == "server"
    assert not first.keys() & {"ServerName", "Alpn"}
    assert str(first["Ja4"]).startswith("t13i")
    assert (second["Cipher"], second["TlsVersion"]) == ("c02f", "1.2")


def test_of_a_hello_cut_by_the_capture_the_rest_is_unknown() -> None:
    talk = Talk()
    (found,) = talk.says(records(CHROME), captured=512)
    assert found.cut == {"ServerName", "Alpn", "Ja4", "TlsVersion"}
    assert not found.attributes.keys() & found.cut
    (answered,) = talk.hears(records(server_hello(0xC02F, [hellos.alpn(b"h2")])))
    assert answered.cut == {"ServerName", "Ja4"}


@pytest.mark.parametrize("known", [20, 60, 300])
def test_a_hello_that_never_ends_is_told_when_the_other_side_speaks(known: int) -> None:
    talk = Talk()
    assert talk.says(records(CHROME)[:known]) == []
    (found,) = talk.hears(b"\x15\x03\x01\0\2\2\x32")
    assert (found.protocol, found.attributes["Stage"]) == ("tls", "asked")
    assert {"ServerName", "Ja4"} <= found.cut
    assert talk.conversation.finished


def test_where_the_client_was_not_seen_what_it_asked_for_is_unknown() -> None:
    (found,) = Talk(initiated=None).hears(records(server_hello(0x1301, [])))
    assert found.cut == {"ServerName", "Alpn", "Ja4"}
    assert (found.attributes["Role"], found.attributes["Stage"]) == ("client", "answered")


def test_a_hello_inside_a_tunnel_keeps_the_destination_asked_for() -> None:
    talk = Talk()
    talk.says(b"CONNECT front.example:443 HTTP/1.1\r\n\r\n")
    talk.hears(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.says(records(CHROME))
    (found,) = talk.seen("tls")
    assert (found["DestinationHostname"], found["ServerName"]) == ("front.example", "late.example")
    assert found["Transport"] == "connect>tcp"


@pytest.mark.parametrize(
    ("wish", "granted"),
    [(b"\0\0\0\x08\x04\xd2\x16\x2f", b"S"), (b"EHLO x\r\n", b"220 go\r\n")],
    ids=["PostgreSQL", "SMTP"],
)
@pytest.mark.parametrize("segment", [0, 1])
def test_a_protocol_may_ask_for_it_first(wish: bytes, granted: bytes, segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(wish)
    talk.hears(granted)
    talk.says(records(CHROME))
    talk.hears(records(server_hello(0x1301, [])))
    assert [found["ServerName"] for found in talk.seen("tls")] == ["late.example"] * 2


def test_a_tunnel_tool_named_in_alpn() -> None:
    talk = Talk()
    talk.says(records(client_hello([0x1301], [hellos.alpn(b"frp")])))
    assert [found.protocol for found in talk.findings] == ["tls", "frp"]
    assert talk.seen("frp")[0]["Behaviour"] == "tunnel_tool"


def test_what_begins_like_a_record_and_is_none() -> None:
    assert is_tls(b"\x16\x03\x01\x02") is None
    assert is_tls(b"\x16\x03\x01\x00\x10\x0b") is False
    assert is_tls(b"\x16\x03\x01\xff\xff\x01") is False
    talk = Talk()
    talk.says(b"\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd")
    assert talk.findings == []


@pytest.mark.parametrize(
    ("protocol", "letters"),
    [(b"h2", "h2"), (b"http/1.1", "h1"), (b"x", "xx"), (b"\xab", "ab"), (b"\xab\xcd", "ad"),
     (b"0\xab", "3b"), (b"01\xab\xcd", "3d"), (b"0\xab\xcd1", "01"), (b"", "00")],
)  # fmt: skip
def test_ja4_of_protocols_as_the_specification_has_them(protocol: bytes, letters: str) -> None:
    hello = Hello(0x0303, (0x1301,), (16,), protocols=(protocol,))
    assert ja4(hello, "t") == f"t12i0101{letters}_" + ja4(Hello(0x0303, (0x1301,)), "q").split("_", 1)[1]


def test_ja4_of_a_client_without_signature_algorithms_or_extensions() -> None:
    assert ja4(Hello(0x0301, (0x2F,)), "t").endswith("_000000000000")
    assert ja4(Hello(0x0002, tuple(range(200)), (0,)), "q").startswith("q00d990100_")


def test_the_last_of_many_extensions_counts_and_memory_is_bounded() -> None:
    many = [hellos.extension(0xFFF0, b"") for _ in range(15000 // 4)]
    hello = parse_client_hello(client_hello([0x1301], [*many, hellos.server_name(b"x")])[4:], True)
    assert hello is not None and hello.server_name == "x"
    talk = Talk(segment=1400)
    for _ in range(20):
        talk.says(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(0x4000 - 4))
    assert [found.attributes.keys() for found in talk.findings] == [{"Transport", "Role", "Stage"}]


@given(st.binary(max_size=200), st.booleans())
def test_no_hello_raises(data: bytes, whole: bool) -> None:
    parse_client_hello(b"\x03\x03" + bytes(32) + data, whole)
    talk = Talk(segment=50)
    talk.says(b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03" + bytes(32) + data)
    talk.hears(b"\x16\x03\x01\x01\x00\x02\x00\x00\xfc\x03\x03" + bytes(32) + data)


@given(st.integers(0, len(CHROME)), st.binary(min_size=1, max_size=6))
def test_no_mutation_of_a_hello_raises(at: int, change: bytes) -> None:
    talk = Talk()
    talk.says(records(CHROME[:at] + change + CHROME[at + len(change) :]))
