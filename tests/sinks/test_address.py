from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwatch.sinks.address import Address, connect, look_up
from agentwatch.sinks.worker import Worker
from tests.sinks.samples import run


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("loghost:514", ("loghost", 514), False),
        ("localhost:1", ("localhost", 1), True),
        ("127.8.0.1:65535", ("127.8.0.1", 65535), True),
        ("[::1]:514", ("::1", 514), True),
        ("[fd00::1]:0", ("fd00::1", 0), False),
        ("127.0.0.1.evil.test:1", ("127.0.0.1.evil.test", 1), False),
    ],
)
def test_addresses(text: str, address: tuple[str, int], loopback: bool) -> None:
    assert Address.parse(text) == address
    assert Address.parse(text).loopback == loopback


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        host, port = Address.parse(text)
    except ValueError:
        return
    assert host and 0 <= port < 1 << 16


def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host that has several the first may be down."""
    found = [(socket.AF_INET, 0, 0, "", (host, 0)) for host in ("127.0.0.2", "127.0.0.1")]

    async def scenario() -> None:
        worker = Worker()
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            infos = [(*info[:4], (info[4][0], port)) for info in found]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: infos)
            assert len(await look_up(worker, Address("two.test", port), socket.SOCK_STREAM)) == 2
            _, writer = await connect(worker, Address("two.test", port), None)
            assert writer.get_extra_info("peername") == ("127.0.0.1", port)
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(worker, Address("two.test", port), None)
        worker.close()

    run(scenario)
