"""OTLP: the messages, and their way to a collector where the extra is installed."""

from __future__ import annotations

from collections import deque

import pytest

from agentwatch.config.sinks import Otel, Sinks
from agentwatch.sinks.hub import Hub
from agentwatch.sinks.metrics import Samples
from agentwatch.sinks.otel import logs, metrics, unix_ns
from agentwatch.sinks.outlet import Outlet
from tests.sinks.receiver import HttpServer
from tests.sinks.samples import alert, item, run, until

pytestmark = pytest.mark.usefixtures("impatient")

SAMPLES: Samples = {
    "agentwatch_alerts_total": [["high", 3]],
    "agentwatch_lag_seconds": [[0.5]],
    "agentwatch_agents": [],
}


def test_time_has_nanoseconds() -> None:
    assert unix_ns("2023-11-14T22:13:20.000000005Z") == 1_700_000_000_000_000_005


def test_an_alert_is_a_log_record() -> None:
    (scoped,) = logs(deque([item(5, level="critical", exe="/tmp/\udcff")]))["resourceLogs"]
    (record,) = scoped["scopeLogs"][0]["logRecords"]
    assert record["severityNumber"] == 18
    assert record["timeUnixNano"] == str(unix_ns(alert(5)["time"]))
    attributes = {one["key"]: one["value"]["stringValue"] for one in record["attributes"]}
    assert attributes["agentwatch.exe"] == "/tmp/\\udcff"
    assert attributes["agentwatch.alert"].startswith("{")


def test_counters_are_cumulative_sums_and_the_rest_gauges() -> None:
    (scoped,) = metrics(SAMPLES, 7)["resourceMetrics"]
    counter, gauge = scoped["scopeMetrics"][0]["metrics"]
    assert counter["sum"]["isMonotonic"] is True
    (point,) = counter["sum"]["dataPoints"]
    assert (point["asDouble"], point["startTimeUnixNano"]) == (3.0, "7")
    assert point["attributes"] == [{"key": "level", "value": {"stringValue": "high"}}]
    assert gauge["gauge"]["dataPoints"][0]["asDouble"] == 0.5


def test_without_the_extra_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setitem(__import__("sys").modules, "google.protobuf.json_format", None)
        said: list[str] = []
        hub = Hub(said.append, print, dict)
        hub.configure(Sinks(otel=Otel(endpoint="http://127.0.0.1:4318")))
        assert "pip install 'agentwatch[otel]'" in hub.status()["otel"]["error"]
        await hub.close()

    run(scenario)


def test_a_collector_gets_logs_and_metrics() -> None:
    service = pytest.importorskip("opentelemetry.proto.collector.logs.v1.logs_service_pb2")
    metrics_service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    from agentwatch.sinks.otel import OtelSink  # noqa: PLC0415

    async def scenario() -> None:
        said: list[str] = []
        server = HttpServer()
        async with server.listening():
            settings = Otel(endpoint=f"http://127.0.0.1:{server.port}", interval_seconds=1)
            sink = OtelSink(settings, lambda: SAMPLES, said.append)
            outlet = Outlet("otel", sink, print)
            server.answer = b"HTTP/1.1 503 Later\r\n\r\n"
            outlet.put(item(1, cmdline="\udcff"))
            await until(lambda: outlet.status()["error"] == "answered 503")
            server.answer = b"HTTP/1.1 200 OK\r\n\r\n"
            await until(lambda: outlet.status()["sent"] == 1)
            await until(lambda: server.requests[-1].path == "/v1/metrics")
            server.answer = b"HTTP/1.1 404 No\r\n\r\n"
            await until(lambda: said)
            assert said == ["sink otel: metrics: answered 404; the next are sent all the same"]
            await outlet.close(1)
        told, measured = (
            next(one for one in reversed(server.requests) if one.path == path)
            for path in ("/v1/logs", "/v1/metrics")
        )
        assert told.headers["content-type"] == "application/x-protobuf"
        exported = service.ExportLogsServiceRequest.FromString(told.body)
        (record,) = exported.resource_logs[0].scope_logs[0].log_records
        assert record.severity_number == 17
        assert record.body.string_value.startswith("Stratum handshake")
        exported = metrics_service.ExportMetricsServiceRequest.FromString(measured.body)
        names = [one.name for one in exported.resource_metrics[0].scope_metrics[0].metrics]
        assert names == ["agentwatch_alerts_total", "agentwatch_lag_seconds"]

    run(scenario)
