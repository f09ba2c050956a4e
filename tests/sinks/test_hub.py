"""All sinks together: made, fed, made anew, and one trouble apart from the next."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from agentwatch.config.sinks import Jsonl, Prometheus, Sinks, Syslog, Webhook
from agentwatch.sinks import hub as under_test
from agentwatch.sinks.hub import Hub
from agentwatch.sinks.metrics import METRICS
from agentwatch.sinks.outlet import QUEUE
from tests.sinks.samples import alert, run, until

pytestmark = pytest.mark.usefixtures("impatient")


def nothing() -> dict[str, Any]:
    return {}


def test_an_alert_reaches_every_sink_and_a_reload_keeps_those_that_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        hub = Hub(print, print, nothing)
        first = Jsonl(enabled=True, path=tmp_path / "a")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.setblocking(False)
            syslog = Syslog(address=f"127.0.0.1:{receiver.getsockname()[1]}")
            hub.configure(Sinks(jsonl=first, syslog=syslog))
            hub.publish(alert(1))
            assert b"pool.test" in await asyncio.get_running_loop().sock_recv(receiver, 65536)
            await until(lambda: hub.status()["jsonl"]["sent"] == 1)
            hub.configure(Sinks(jsonl=Jsonl(enabled=True, path=tmp_path / "b"), syslog=syslog))
            hub.publish(alert(2))
            await until(lambda: hub.status()["jsonl"]["sent"] == 1)
            await until(lambda: hub.status()["syslog"]["sent"] == 2)
            hub.configure(Sinks())
            assert hub.status() == {}
            hub.publish(alert(3))
        await hub.close()
        for name, number in (("a", 1), ("b", 2)):
            (line,) = (tmp_path / name).read_text().splitlines()
            assert json.loads(line) == alert(number)

    run(scenario)


def test_what_cannot_be_made_is_told_and_the_rest_works(tmp_path: Path) -> None:
    async def scenario() -> None:
        said: list[str] = []
        hub = Hub(said.append, print, nothing)
        hub.configure(
            Sinks(
                jsonl=Jsonl(enabled=True, path=tmp_path / "a"),
                webhook=(Webhook(id="x", url="http://example.com/"),),
                prometheus=Prometheus(enabled=True, listen="0.0.0.0:1"),
            )
        )
        hub.publish(alert(1))
        await until(lambda: hub.status()["jsonl"]["sent"] == 1)
        assert "use https" in hub.status()["webhook-x"]["error"]
        assert "loopback" in hub.status()["prometheus"]["error"]
        assert len(said) == 2
        assert ["webhook-x", 1] in hub.samples()["agentwatch_sink_failing"]
        hub.configure(Sinks())
        assert hub.status() == {}
        await hub.close()

    run(scenario)


def test_a_flood_into_sinks_that_hang_fail_and_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "GRACE", 0.05)
    flood = 100_000

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as deaf, socket.create_server(("127.0.0.1", 0)) as gone:
            hanging, refusing = (one.getsockname()[1] for one in (deaf, gone))
            gone.close()
            hub = Hub(print, print, nothing)
            hub.configure(
                Sinks(
                    jsonl=Jsonl(enabled=True, path=tmp_path / "alerts", rotate_bytes=1 << 40),
                    webhook=tuple(
                        Webhook(id=str(port), url=f"http://127.0.0.1:{port}/") for port in (hanging, refusing)
                    ),
                )
            )
            one = alert(1)
            for number in range(flood):
                hub.publish(one)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            for port in (hanging, refusing):
                status = hub.status()[f"webhook-{port}"]
                assert status["queued"] <= QUEUE + 100
                assert status["dropped"] + status["queued"] == flood
            await until(lambda: hub.status()["jsonl"]["queued"] == 0)
            status = hub.status()["jsonl"]
            assert status["sent"] + status["dropped"] == flood
            assert (tmp_path / "alerts").read_bytes().count(b"\n") == status["sent"] >= QUEUE
            await hub.close()
            (tmp_path / "alerts").unlink()

    run(scenario)


def test_every_sample_is_of_a_metric_in_the_table() -> None:
    async def scenario() -> None:
        hub = Hub(print, print, nothing)
        hub.take_metrics({"agentwatch_resident_memory_bytes": [["core", 5]]})
        samples = hub.samples()
        assert samples.keys() <= {metric.name for metric in METRICS}
        assert [row[0] for row in samples["agentwatch_resident_memory_bytes"]] == ["core", "front"]
        await hub.close()

    run(scenario)
