"""Alerts and metrics to an OpenTelemetry collector: OTLP over HTTP, protobuf.

The messages are made as OTLP's JSON encoding has them and packed with the library
`opentelemetry-proto`, an extra (`pip install agentwatch[otel]`) that is imported only here, once
a collector is configured. Delivery is that of the other sinks.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

from agentwatch import __version__
from agentwatch.config.sinks import Otel
from agentwatch.sinks.address import tls_context
from agentwatch.sinks.http import Target, post
from agentwatch.sinks.metrics import METRICS, Samples
from agentwatch.sinks.outlet import Item, reason_of
from agentwatch.sinks.summary import facts, headline
from agentwatch.sinks.worker import Worker

SEVERITIES: Final = {"informational": 9, "low": 10, "medium": 13, "high": 17, "critical": 18}
"""SeverityNumber by level: INFO, INFO2, WARN, ERROR, ERROR2."""

_CUMULATIVE = 2  # AGGREGATION_TEMPORALITY_CUMULATIVE
_SECONDS = 10.0  # for one request


def _attributes(pairs: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": _text(value)}} for name, value in pairs.items()]


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")  # protobuf takes no lone surrogates


def _resource() -> dict[str, Any]:
    about = {
        "service.name": "agentwatch",
        "service.version": __version__,
        "host.name": socket.gethostname(),
    }
    return {"attributes": _attributes(about)}


_SCOPE: Final = {"name": "agentwatch", "version": __version__}


def logs(batch: deque[Item]) -> dict[str, Any]:
    """ExportLogsServiceRequest: a log record an alert, whose body is the headline."""
    records = [
        {
            "timeUnixNano": str(unix_ns(item.alert["time"])),
            "observedTimeUnixNano": str(time.time_ns()),
            "severityNumber": SEVERITIES[item.alert["rule"]["level"]],
            "severityText": item.alert["rule"]["level"],
            "body": {"stringValue": _text(headline(item.alert))},
            "attributes": _attributes(
                {
                    **{f"agentwatch.{name}": value for name, value in facts(item.alert).items()},
                    "agentwatch.alert": item.line.decode("ascii"),
                }
            ),
        }
        for item in batch
    ]
    return {
        "resourceLogs": [{"resource": _resource(), "scopeLogs": [{"scope": _SCOPE, "logRecords": records}]}]
    }


def metrics(samples: Samples, began: int) -> dict[str, Any]:
    """ExportMetricsServiceRequest of what the table has samples of. `began` is in ns of Unix time."""
    now = time.time_ns()
    told = []
    for metric in METRICS:
        points = [
            {
                "startTimeUnixNano": str(began),
                "timeUnixNano": str(now),
                "asDouble": float(value),
                "attributes": _attributes(dict(zip(metric.labels, labels, strict=True))),
            }
            for *labels, value in samples.get(metric.name, ())
        ]
        data: dict[str, Any] = {"dataPoints": points}
        if metric.type == "counter":
            data.update(aggregationTemporality=_CUMULATIVE, isMonotonic=True)
        if points:
            kind = "sum" if metric.type == "counter" else "gauge"
            told.append({"name": metric.name, "description": metric.doc, kind: data})
    return {
        "resourceMetrics": [{"resource": _resource(), "scopeMetrics": [{"scope": _SCOPE, "metrics": told}]}]
    }


def unix_ns(timestamp: str) -> int:
    """Of an alert's time: RFC 3339 with nine digits of a second."""
    whole, _, fraction = timestamp.rstrip("Z").partition(".")
    seconds = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    return int(seconds) * 1_000_000_000 + int(fraction)


class _Packer:
    """The library's part."""

    def __init__(self) -> None:
        from google.protobuf.json_format import ParseDict  # noqa: PLC0415
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (  # noqa: PLC0415
            ExportLogsServiceRequest,
        )
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (  # noqa: PLC0415
            ExportMetricsServiceRequest,
        )

        self._parse = ParseDict
        self.logs, self.metrics = ExportLogsServiceRequest, ExportMetricsServiceRequest

    def pack(self, kind: Callable[[], Any], message: Mapping[str, Any]) -> bytes:
        packed: bytes = self._parse(message, kind()).SerializeToString()
        return packed


class OtelSink:
    """One collector. `samples` is asked for the metrics, `say` is told when they cannot be told.

    Raises `ValueError` without the library.
    """

    def __init__(self, settings: Otel, samples: Callable[[], Samples], say: Callable[[str], None]) -> None:
        try:
            self._packer = _Packer()
        except ImportError:
            raise ValueError("needs a library: pip install 'agentwatch[otel]'") from None
        base = settings.endpoint.rstrip("/")
        self._logs, self._metrics = Target.parse(f"{base}/v1/logs"), Target.parse(f"{base}/v1/metrics")
        self._settings, self._samples, self._say = settings, samples, say
        self._began = time.time_ns()
        self._worker = Worker()
        self._task = asyncio.ensure_future(self._tell_metrics())

    async def deliver(self, batch: deque[Item]) -> None:
        """See `Sink`."""
        await self._post(self._logs, self._packer.pack(self._packer.logs, logs(batch)))
        batch.clear()

    async def _tell_metrics(self) -> None:
        """Again and again. One export that fails is followed by the next; counters are cumulative."""
        failing = False
        while True:
            await asyncio.sleep(self._settings.interval_seconds)
            try:
                message = metrics(self._samples(), self._began)
                await self._post(self._metrics, self._packer.pack(self._packer.metrics, message))
                failing = False
            except Exception as error:  # alerts still go out, and so do the metrics of another time
                if not failing:
                    self._say(f"sink otel: metrics: {reason_of(error)}; the next are sent all the same")
                failing = True

    async def _post(self, target: Target, body: bytes) -> None:
        tls = tls_context(self._settings.ca_file) if target.secure else None
        headers = {"Content-Type": "application/x-protobuf"}
        await asyncio.wait_for(post(self._worker, target, headers, body, tls), _SECONDS)

    def reopen(self) -> None:
        """Nothing stays open."""

    def close(self) -> None:
        self._task.cancel()
        self._worker.close()
