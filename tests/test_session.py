"""A live session under stress: a flood that overflows the rings leaves what must not be crowded out."""

from __future__ import annotations

import os

import pytest

from agentwatch.schema.events import BY_NUMBER
from tests.lab import compiled
from tests.lab.watched import Watched, watched
from tests.rules.helpers import rule, rules

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# Fills both rings while nobody reads: datagram connects one, DNS payload the other. Then it does
# what must come through.
FLOOD = """
import os, socket, subprocess, sys
subprocess.run([sys.argv[1], "udp-connect", "0", "0.5"], stdout=subprocess.DEVNULL, check=True)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    for _ in range(20_000):
        asking.sendto(bytes(512), ("127.0.0.1", 53))
subprocess.run(["/bin/true", "x" * 1000, "whole"], check=True)
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        client.sendall(b"first words")
        peer.recv(100)
"""
CONNECTION = rule("s:\n  Protocol: tcp\ncondition: s", "title: TCP connection", category="network_connection")


@pytest.fixture(scope="module")
def flooded() -> Watched:
    command = ["/usr/bin/python3", "-c", FLOOD, str(compiled("flood"))]
    with watched(command, rules=rules(CONNECTION)) as agent:
        os.waitid(os.P_PID, agent.child.pid, os.WEXITED | os.WNOWAIT)
        assert agent.until_end() == 0
    return agent


def test_what_was_lost_is_counted_by_kind(flooded: Watched) -> None:
    told = {BY_NUMBER[event["event"]].name: event["lost"] for event in flooded.named("loss")}
    assert {"connect", "payload"} <= told.keys()
    assert not told.keys() & {"fork", "exec", "exec_piece", "exit", "connected", "accept", "listen"}
    assert flooded.session.state.agent(1).lost == told
    asked = sum(event["message"] > 1 for event in flooded.named("payload"))
    assert asked + told["payload"] >= 20_000 - 1


def test_exec_comes_through_whole(flooded: Watched) -> None:
    argv = ("/bin/true", "x" * 1000, "whole")
    (process,) = [one for one in flooded.session.state.processes.all() if one.argv == argv]
    assert process.truncated == frozenset()
    assert process.status == 0


def test_tcp_connect_and_first_payload_come_through(flooded: Watched) -> None:
    (connect,) = [event for event in flooded.named("connect") if event["protocol"] == 6]
    first = [event for event in flooded.named("payload") if event["cookie"] == connect["cookie"]]
    assert [event["data"] for event in first] == [b"first words"]
    (accept,) = flooded.named("accept")
    assert accept["local_port"] == connect["remote_port"]


def test_alerts_say_that_their_evidence_is_partial(flooded: Watched) -> None:
    assert {alert["completeness"]["state"] for alert in flooded.alerts} == {"partial"}
