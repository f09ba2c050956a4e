"""Handshakes of real programs on the running kernel: what they say of themselves arrives whole."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from agentwatch.detect.chain import Chain
from agentwatch.detect.request import NoRequests
from agentwatch.enrich.state import State
from agentwatch.schema.decode import TIME
from tests.detect import hellos
from tests.detect.initials import crypto, initial
from tests.lab import needs_root
from tests.lab.watched import watched

SERVER = """
import socket, ssl, subprocess, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({cert!r}, {key!r})
context.set_alpn_protocols(["h2", "http/1.1"])
def serve():
    try:
        with context.wrap_socket(listener.accept()[0], server_side=True) as peer:
            peer.recv(1)
    except OSError:
        pass
thread = threading.Thread(target=serve); thread.start()
"""


def findings(code: str) -> list[dict[str, Any]]:
    """The flow events of a Python program run as an agent."""
    with watched([sys.executable, "-c", textwrap.dedent(code)]) as agent:
        agent.until_end()
    state, events = State(), []
    chain = Chain(state, ("flow",), NoRequests())
    for seq, (_, row) in enumerate(sorted(agent.rows, key=lambda one: one[1][TIME])):
        change = state.apply(seq, row)
        if change is not None:
            events += [dict(one.fields) for one in chain.of(change) if one.category == "flow"]
    return events


def of(events: list[dict[str, Any]], protocol: str, role: str = "client") -> list[dict[str, Any]]:
    return [event for event in events if (event["Protocol"], event.get("Role")) == (protocol, role)]


@needs_root
def test_python_speaks_tls(tmp_path: Path) -> None:
    cert, key = hellos.certificate(tmp_path)
    client = """
context = ssl._create_unverified_context()
context.set_alpn_protocols(["http/1.1"])
with socket.create_connection(("127.0.0.1", port)) as plain:
    context.wrap_socket(plain, server_hostname="some.example").send(b"x")
thread.join()
"""
    events = findings(SERVER.format(cert=str(cert), key=str(key)) + client)
    asked, answered = of(events, "tls")
    assert (asked["ServerName"], asked["Alpn"], asked["Stage"]) == ("some.example", ("http/1.1",), "asked")
    assert asked["DestinationHostname"] == "some.example"
    assert asked["Ja4"].startswith("t13d") and asked["Ja4"][8:10] == "h1"
    assert (answered["TlsVersion"], answered["Stage"]) == ("1.3", "answered")
    served, _ = of(events, "tls", "server")
    assert served["Ja4"] == asked["Ja4"] and served["DestinationHostname"] is None


@needs_root
def test_openssl_speaks_tls_with_a_long_hello(tmp_path: Path) -> None:
    """Twenty long protocol names put the hello beyond what other messages are recorded to."""
    cert, key = hellos.certificate(tmp_path)
    client = """
names = ",".join(letter * 60 for letter in "abcdefghijklmnopqrst")
subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "far.example",
                "-alpn", names, "-tls1_2"], stdin=subprocess.DEVNULL, capture_output=True)
thread.join()
"""
    events = findings(
        SERVER.format(cert=str(cert), key=str(key)).replace("context.set_alpn", "0 and context.set_alpn")
        + client
    )
    asked, answered = of(events, "tls")
    assert asked["ServerName"] == "far.example" and len(asked["Ja4"]) == 36
    assert (asked["TlsVersion"], answered["TlsVersion"]) == ("1.2", "1.2")
    assert len(answered["Cipher"]) == 4


@needs_root
def test_ssh_exchanges_keys() -> None:
    events = findings(
        """
        import socket, subprocess, threading
        listener = socket.create_server(("127.0.0.1", 0))
        def serve():
            peer, _ = listener.accept()
            peer.sendall(b"SSH-2.0-test\\r\\n")
            got = b""
            while len(got) < 1000 and (more := peer.recv(4096)):
                got += more
            peer.close()
        thread = threading.Thread(target=serve); thread.start()
        port = str(listener.getsockname()[1])
        ssh = ["ssh", "-F", "none", "-p", port, "-o", "BatchMode=yes", "127.0.0.1"]
        subprocess.run(ssh, capture_output=True)
        thread.join()
        """
    )
    last = of(events, "ssh")[-1]
    assert last["Client"].startswith("OpenSSH") and last["Server"] == "test"
    assert len(last["Hassh"]) == 32


@needs_root
def test_a_quic_hello_in_two_datagrams() -> None:
    halves = [initial(crypto(at, hellos.CHROME[at : at + 1100])) for at in (0, 1100)]
    events = findings(
        f"""
        import socket
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for half in {halves!r}:
            client.sendto(half, ("127.0.0.1", 9))
        """
    )
    (asked,) = [event for event in events if event["Protocol"] == "quic"]
    assert (asked["ServerName"], asked["Ja4"]) == ("late.example", "q" + hellos.CHROME_JA4[1:])
