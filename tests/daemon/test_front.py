"""The front as the core has it: a flood of alerts into sinks that hang holds nobody up."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentwatch.config.sinks import Jsonl, Prometheus, Sinks, Webhook, plain
from agentwatch.control.client import Client
from agentwatch.daemon.helper import Helper
from tests.lab import eventually
from tests.sinks.samples import alert

FLOOD = 100_000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others may not ask")


class Core:
    """A front, and what a core does for it."""

    def __init__(self, folder: Path, sinks: Sinks) -> None:
        self.socket = folder / "control.sock"
        self.front = Helper(self.settings(sinks), "agentwatch.daemon.front", "the front")
        self.scrapes = 0
        eventually(self.tend)  # it has said that it serves

    def settings(self, sinks: Sinks) -> dict[str, Any]:
        return {"socket": str(self.socket), "act_group": "", "read_group": "", "sinks": plain(sinks)}

    def tend(self) -> bool:
        """Answer what it asks; whether it said anything."""
        messages = self.front.receive()
        for message in messages:
            if message[0] == "ask":
                self.front.send("answer", message[1], {"result": {}})
            self.scrapes += message[0] == "scraped"
        return bool(messages)

    def while_tending(self, work: Any) -> Any:
        """What `work` returns in a thread, while the core goes on."""
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(work()))
        thread.start()
        eventually(lambda: self.tend() or not thread.is_alive(), 30)
        eventually(lambda: (self.tend(), not thread.is_alive())[1], 30)
        return got[0]

    def sinks(self) -> dict[str, Any]:
        """Their accounts, by `status`."""

        def ask() -> Any:
            with Client(self.socket) as client:
                return client.ask("status")["sinks"]

        found: dict[str, Any] = self.while_tending(ask)
        return found


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_a_flood_is_taken_or_counted(tmp_path: Path, deaf: socket.socket) -> None:
    path = tmp_path / "alerts"
    hook = Webhook(id="deaf", url=f"http://127.0.0.1:{deaf.getsockname()[1]}/")
    jsonl = Jsonl(enabled=True, path=path, rotate_bytes=1 << 40)
    core = Core(tmp_path, Sinks(jsonl=jsonl, webhook=(hook,)))
    one = alert(1)
    for number in range(FLOOD):
        core.front.send("item", "alerts", number, one)
    eventually(lambda: (core.front.receive(), core.front.backlog == 0)[1], 60)
    taken = FLOOD - core.front.dropped
    assert taken > 0

    def settled() -> bool:
        account = core.sinks()["jsonl"]
        return bool(account["sent"] + account["dropped"] == taken)

    eventually(settled, 60)
    sinks = core.sinks()
    assert path.read_bytes().count(b"\n") == sinks["jsonl"]["sent"]
    assert sinks["webhook-deaf"]["queued"] + sinks["webhook-deaf"]["dropped"] == taken
    assert sinks["webhook-deaf"]["sent"] == 0
    core.front.close()
    path.unlink()


def test_other_settings_come_into_force_and_the_same_open_files_anew(tmp_path: Path) -> None:
    first, second = (Jsonl(enabled=True, path=tmp_path / name) for name in "ab")
    core = Core(tmp_path, Sinks(jsonl=first))
    core.front.send("item", "alerts", 1, alert(1))
    eventually(lambda: (tmp_path / "a").exists() and (tmp_path / "a").stat().st_size)
    core.front.configure(core.settings(Sinks(jsonl=second)))
    core.front.send("item", "alerts", 2, alert(2))
    core.front.close()  # it delivers what waits
    assert json.loads((tmp_path / "a").read_text()) == alert(1)
    assert json.loads((tmp_path / "b").read_text()) == alert(2)


def test_sinks_work_without_a_control_socket(tmp_path: Path) -> None:
    core = Core(tmp_path / "nowhere", Sinks(jsonl=Jsonl(enabled=True, path=tmp_path / "a")))
    core.front.send("item", "alerts", 1, alert(1))
    core.front.close()
    assert json.loads((tmp_path / "a").read_text()) == alert(1)


def test_a_scrape_is_told_to_the_core_and_shows_what_it_measured(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    core = Core(tmp_path, Sinks(prometheus=Prometheus(enabled=True, listen=f"127.0.0.1:{port}")))
    core.front.send("metrics", {"agentwatch_records_total": [[42]]})
    text = core.while_tending(lambda: scrape(port))
    assert "\nagentwatch_records_total 42\n" in text
    assert 'agentwatch_resident_memory_bytes{process="front"}' in text
    eventually(lambda: (core.tend(), core.scrapes == 1)[1])
    core.front.close()


def scrape(port: int) -> str:
    """The metrics, as Prometheus gets them."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        with connection.makefile("rb") as file:
            return file.read().decode()
