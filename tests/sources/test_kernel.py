"""The live source on the real rings."""

from __future__ import annotations

import os

import pytest

from tests.lab.watched import watched

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LONG = 20.0  # seconds: what is waited for at the most; nothing here takes that long when it works


def test_an_execution_wakes_the_reader_although_its_pieces_do_not() -> None:
    with watched(["sleep", "60"]) as agent:
        assert agent.session.source._epoll.poll(LONG)
        agent.until("exec")


def test_first_bytes_wake_a_reader_that_has_not_caught_up() -> None:
    code = (
        "import socket, os, time; os.system('true'); s = socket.create_server(('127.0.0.1', 0));"
        "socket.create_connection(s.getsockname()).sendall(b'first'); time.sleep(60)"
    )
    with watched(["/usr/bin/python3", "-c", code]) as agent:
        while not agent.named("payload"):
            assert agent.session.source._epoll.poll(LONG)
            agent.step(0)
