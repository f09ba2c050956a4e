from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.detect.finding import OUT
from agentwatch.detect.http import MAX_HEAD, MAX_REQUESTS, is_http, parse_head, split_host
from tests.detect.talk import Talk

GETWORK = json.dumps({"id": 0, "method": "getwork", "params": []}).encode()
TEMPLATE = json.dumps({"id": 0, "result": {"previousblockhash": "00" * 32, "coinbasevalue": 5}}).encode()


def post(body: bytes, *headers: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: node:8332", *headers, length, b"", body])


def test_different_requests_are_reported() -> None:
    talk = Talk(segment=1)
    talk.says(b"GET /a?b HTTP/1.1\r\nhost: example.org:8080\r\nUSER-AGENT:curl/8\r\n\r\n")
    talk.hears(b"HTTP/1.1 204 No Content\r\n\r\n")
    talk.says(b"GET /a?b HTTP/1.1\r\nhost: example.org\r\n\r\n")
    talk.hears(b"HTTP/1.1 204 No Content\r\n\r\n")
    talk.says(b"POST /c HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert [found["Path"] for found in talk.seen("http")] == ["/a?b", "/c"]
    assert talk.seen("http")[:1] == [
        {
            "Transport": "tcp",
            "Role": "client",
            "Method": "GET",
            "DestinationHostname": "example.org",
            "Path": "/a?b",
            "Client": "curl/8",
        }
    ]


def test_so_many_requests_are_reported_and_long_paths_are_cut() -> None:
    talk = Talk()
    for number in range(2 * MAX_REQUESTS):
        talk.says(b"GET /%d HTTP/1.1\r\n\r\n" % number)
        talk.hears(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert len(talk.seen("http")) == MAX_REQUESTS
    (found,) = Talk().says(b"GET /" + b"x" * 300 + b" HTTP/1.1\r\n\r\n")
    assert found.cut == {"Path"}


def upgraded(upgrade: bytes, path: bytes = b"/", *subprotocols: bytes) -> Talk:
    talk = Talk()
    names = b"Sec-WebSocket-Protocol: " + b", ".join(subprotocols) + b"\r\n" if subprotocols else b""
    talk.says(
        b"GET " + path + b" HTTP/1.1\r\nHost: h.example\r\nUpgrade: " + upgrade + b"\r\n" + names + b"\r\n"
    )
    return talk


CLAIMS = base64.urlsafe_b64encode(b'{"id":"0190","p":{"ReverseTcp":{}},"r":"127.0.0.1","rp":2222}').rstrip(
    b"="
)


@pytest.mark.parametrize(
    ("tool", "upgrade", "path", "subprotocols"),
    [
        ("chisel", b"websocket", b"/", [b"chisel-v3"]),
        ("wstunnel", b"websocket", b"/v1/events", [b"v1", b"authorization.bearer.e30." + CLAIMS + b".x"]),
        ("devtunnel", b"websocket", b"/", [b"tunnel-relay-host-v2-dev"]),
        ("frp", b"websocket", b"/~!frp", []),
        ("tailscale", b"tailscale-control-protocol", b"/ts2021", []),
        ("tailscale", b"DERP", b"/derp", []),
    ],
)
def test_tunnel_tools_by_their_upgrade(
    tool: str, upgrade: bytes, path: bytes, subprotocols: list[bytes]
) -> None:
    (found,) = upgraded(upgrade, path, *subprotocols).seen(tool)
    assert (found["Behaviour"], found["DestinationHostname"]) == ("tunnel_tool", "h.example")


@pytest.mark.parametrize(
    ("upgrade", "path", "subprotocols"),
    [
        (b"websocket", b"/v1/events", [b"v1", b"authorization.bearer.e30.eyJzdWIiOiIxIn0.x"]),
        (b"websocket", b"/v1/events", [b"v1", b"authorization.bearer.!"]),
        (b"websocket", b"/", [b"graphql-ws", b"chisel"]),
        (b"h2c", b"/~!frp", []),
        (b"", b"/~!frp", []),
    ],
)
def test_other_upgrades_are_no_tunnel_tools(upgrade: bytes, path: bytes, subprotocols: list[bytes]) -> None:
    assert all("Behaviour" not in one.attributes for one in upgraded(upgrade, path, *subprotocols).findings)


def test_chisel_over_a_websocket_is_ssh_inside() -> None:
    talk = upgraded(b"websocket", b"/", b"chisel-v3")
    talk.hears(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    banner = b"SSH-chisel-v3-client\r\n"
    talk.says(bytes([0x82, 0x80 | len(banner)]) + bytes(4) + banner)
    assert [found["Transport"] for found in talk.seen("ssh")] == ["websocket"]


@pytest.mark.parametrize("segment", [0, 1, 13])
def test_json_bodies_are_read(segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(post(b'{"jsonrpc":"2.0","method":"ping"}'))
    talk.hears(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    talk.says(post(GETWORK, b"User-Agent: minerd/2"))
    talk.hears(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(TEMPLATE) + TEMPLATE)
    assert [(found["Method"], found["Role"], found["Transport"]) for found in talk.seen("stratum")] == [
        ("getwork", "client", "http"),
        ("getblocktemplate", "client", "http"),
    ]


@pytest.mark.parametrize("segment", [0, 1, 5])
def test_chunked_bodies_are_joined(segment: int) -> None:
    talk = Talk(segment=segment)
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in (GETWORK[:9], GETWORK[9:]))
    talk.says(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    talk.says(post(b'{"id":1,"method":"mining.hello","params":{"proto":"EthereumStratum/2.0.0"}}'))
    assert [found["Method"] for found in talk.seen("stratum")] == ["getwork", "mining.hello"]


@pytest.mark.parametrize(
    "body", [b"a log line\n%s\n", b"text=%s", b"{}\n%s", b"--b\r\n\r\n%s\r\n--b--", b"[%s"]
)
def test_files_of_lines_are_no_requests(body: bytes) -> None:
    for segment in (0, 1):
        talk = Talk(segment=segment)
        talk.says(post((body % GETWORK).replace(b"[{", b"[1,{")))
        assert talk.seen("stratum") == []


def test_prompts_prove_nothing() -> None:
    talk = Talk()
    talk.says(post(json.dumps({"messages": [{"content": GETWORK.decode()}], "method": None}).encode()))
    assert talk.seen("stratum") == []


def test_a_body_cut_by_the_capture_does_not_derange_what_follows() -> None:
    talk = Talk()
    talk.says(post(json.dumps({"prompt": "x" * 2000}).encode()), captured=512)
    talk.hears(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    talk.says(post(GETWORK))
    assert [found["Method"] for found in talk.seen("stratum")] == ["getwork"]


def test_a_head_cut_by_the_capture_is_read_as_far_as_it_goes() -> None:
    talk = Talk()
    talk.says(b"CONNECT pool.example:443 HTTP/1.1\r\nCookie: " + b"x" * 900 + b"\r\n\r\n", captured=512)
    talk.hears(b"HTTP/1.1 200 OK\r\n\r\n")
    talk.says(b'{"id":1,"method":"mining.subscribe","params":[]}\n')
    assert talk.seen("stratum")[0]["DestinationHostname"] == "pool.example"


def test_connect_names_its_destination_and_leads_inside() -> None:
    talk = Talk(segment=1)
    talk.says(b"CONNECT pool.example:3333 HTTP/1.1\r\nHost: x\r\nUser-Agent: m/1\r\n\r\n")
    talk.hears(b"HTTP/1.0 200 Connection established\r\n\r\n")
    talk.says(b'{"id":1,"method":"login","params":{"login":"a","agent":"b"}}\n')
    assert talk.seen("http-connect") == [
        {
            "Transport": "tcp",
            "Role": "client",
            "DestinationHostname": "pool.example",
            "DestinationPort": 3333,
            "Client": "m/1",
        }
    ]
    assert talk.seen("stratum")[0]["Transport"] == "connect>tcp"


def test_ssh_through_connect_knows_its_client() -> None:
    talk = Talk()
    talk.says(b"CONNECT h:22 HTTP/1.1\r\n\r\n")
    talk.hears(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-srv\r\n")
    talk.says(b"SSH-2.0-cli\r\n")
    assert talk.seen("ssh")[-1]["Client"] == "cli"
    assert talk.seen("ssh")[-1]["Server"] == "srv"


def test_a_refused_connect_goes_on_in_http() -> None:
    talk = Talk()
    talk.says(b"CONNECT a:1 HTTP/1.1\r\n\r\n")
    talk.hears(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    talk.says(b"CONNECT b:2 HTTP/1.1\r\n\r\n")
    talk.hears(b"HTTP/1.1 200 OK\r\n\r\n")
    assert [found["DestinationHostname"] for found in talk.seen("http-connect")] == ["a", "b"]


def test_the_watched_process_may_be_the_server() -> None:
    talk = Talk(initiated=False)
    talk.hears(post(GETWORK))
    assert talk.seen("http")[0]["Role"] == "server"
    assert talk.seen("stratum")[0]["Role"] == "server"


def test_mining_headers() -> None:
    talk = Talk()
    talk.says(b"GET /LP HTTP/1.1\r\nX-Mining-Extensions: midstate\r\n\r\n")
    talk.hears(b"HTTP/1.1 200 OK\r\nX-Stratum: stratum+tcp://p:1\r\nContent-Length: 0\r\n\r\n")
    assert [found["Method"] for found in talk.seen("stratum")] == ["X-Mining-Extensions", "X-Stratum"]


def test_what_only_looks_like_http() -> None:
    talk = Talk()
    talk.says(b'CONNECT {"verbose":false}\r\nSUB mining.subscribe 1\r\n')
    assert talk.findings == []


def test_requests_whose_bodies_have_no_announced_length() -> None:
    talk = Talk()
    talk.says(b"POST / HTTP/1.1\r\n\r\n{}\r\n")
    talk.hears(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    talk.says(b"POST / HTTP/1.1\r\n\r\n" + GETWORK)
    assert talk.seen("stratum") != []


def test_a_malformed_request_does_not_end_the_watch() -> None:
    talk = Talk()
    talk.says(b"GET / HTTP/1.1\r\n\r\nnonsense\r\n\r\n")
    talk.hears(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    assert talk.says(GETWORK + b"\n") != []


def test_heads_are_bounded() -> None:
    talk = Talk()
    talk.says(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * (MAX_HEAD // 6))
    talk.hears(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert len(talk.seen("http")) == 1
    assert talk.says(post(GETWORK)) != []


def test_is_http_waits_for_the_method() -> None:
    assert is_http(b"PO") is None
    assert is_http(b"POST ") is True
    assert is_http(b"POSTAL ") is False


@pytest.mark.parametrize(
    ("authority", "expected"),
    [
        ("host:80", ("host", 80)),
        ("host", ("host", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("host:x", ("host:x", 0)),
        ("", ("", 0)),
    ],
)
def test_split_host(authority: str, expected: tuple[str, int]) -> None:
    assert split_host(authority) == expected


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"GET ", b"HTTP/1.1 ", b"GET / HTTP/1.1\r\nContent-Length:"]),
)
def test_no_head_raises(data: bytes, opening: bytes) -> None:
    head = parse_head(opening + data)
    if head is not None:
        assert head.length is None or head.length >= 0
        assert isinstance(head.host, str)


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 9))
def test_no_chunks_raise(parts: list[bytes], segment: int) -> None:
    talk = Talk(segment=segment)
    talk.says(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for part in parts:
        talk.passes(OUT, part)
