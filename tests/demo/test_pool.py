"""The pool answers both dialects and survives what it does not understand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agentwatch.demo.miner import JOBS, mine
from agentwatch.demo.pool import Session


@pytest.fixture
def miner() -> Iterator[socket.socket]:
    """A miner's end of a session."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=Session(theirs).run)
    thread.start()
    with ours, theirs:
        ours.settimeout(10)
        yield ours
        ours.shutdown(socket.SHUT_WR)
        thread.join(10)
        assert not thread.is_alive()


def ask(miner: socket.socket, *requests: bytes) -> Iterator[dict[str, Any]]:
    miner.sendall(b"".join(requests))
    with miner.makefile("rb") as answers:
        for line in answers:
            yield json.loads(line)


def test_bitcoin_dialect(miner: socket.socket) -> None:
    answers = ask(
        miner,
        b'{"id":1,"method":"mining.subscribe","params":[]}\n',
        b'{"id":2,"method":"mining.authorize","params":["w","x"]}\n',
    )
    assert next(answers)["id"] == 1
    assert next(answers)["result"] is True
    job = next(answers)
    assert (job["id"], job["method"]) == (None, "mining.notify")


def test_monero_dialect(miner: socket.socket) -> None:
    answers = ask(miner, b'{"id":1,"method":"login","params":{"login":"w"}}\n')
    assert next(answers)["result"]["status"] == "OK"
    job = next(answers)
    assert job["method"] == "job"
    assert "blob" in job["params"]


@pytest.mark.parametrize("garbage", [b"\xff\n", b"[]\n", b"3\n", b"{}\n", b"\n", b'"method"\n', b"null\n"])
def test_what_is_no_request_gets_no_answer(miner: socket.socket, garbage: bytes) -> None:
    answers = ask(miner, garbage, b'{"id":7,"method":"mining.submit"}\n')
    assert next(answers)["id"] == 7


def test_miner_takes_its_jobs_and_leaves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                Session(connection).run()

        thread = threading.Thread(target=serve)
        thread.start()
        assert mine(*listener.getsockname()) == JOBS
        thread.join(10)
        assert not thread.is_alive()
