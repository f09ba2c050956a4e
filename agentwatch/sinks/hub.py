"""All sinks of the front process: made from the settings, fed with every alert, made anew on a reload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from agentwatch.config.sinks import Sinks
from agentwatch.sinks.alerts import encode
from agentwatch.sinks.journald import JournaldSink
from agentwatch.sinks.jsonl import JsonlSink
from agentwatch.sinks.metrics import Samples, render, resident_bytes
from agentwatch.sinks.outlet import Item, Outlet, Sink
from agentwatch.sinks.prometheus import PrometheusEndpoint
from agentwatch.sinks.syslog import SyslogSink
from agentwatch.sinks.webhook import WebhookSink

GRACE: Final = 1.5  # seconds for what waits, when a sink goes: the core waits 2 s for its front

Make = Callable[[], Sink]
Wanted = Iterator[tuple[str, Any, Make]]


class Hub:
    """`say` is told what goes wrong, `scraped` that somebody reads the metrics; `measure` adds to them."""

    def __init__(
        self, say: Callable[[str], None], scraped: Callable[[], None], measure: Callable[[], Samples]
    ) -> None:
        self._say, self._scraped, self._measure = say, scraped, measure
        self._outlets: dict[str, tuple[Any, Outlet]] = {}
        self._broken: dict[str, str] = {}  # sinks that cannot be made, and why
        self._endpoint: tuple[Any, PrometheusEndpoint] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._told: Samples = {}
        self._told_at = time.monotonic()

    def configure(self, sinks: Sinks) -> None:
        """Make what is new, end what is gone, and have the rest open its files anew."""
        wanted = {name: (settings, make) for name, settings, make in self._wanted(sinks)}
        self._broken.clear()
        for name in list(self._outlets):
            settings, outlet = self._outlets[name]
            if name in wanted and wanted[name][0] == settings:
                outlet.reopen()
                del wanted[name]
            else:
                del self._outlets[name]
                self._leave(outlet.close(GRACE))
        for name, (settings, make) in wanted.items():
            try:
                self._outlets[name] = settings, Outlet(name, make(), self._say, settings.level)
            except Exception as error:  # whatever it is, the others are made
                self._break(name, error)
        self._configure_endpoint(sinks)

    def _wanted(self, sinks: Sinks) -> Wanted:
        if sinks.jsonl.enabled:
            yield "jsonl", sinks.jsonl, lambda: JsonlSink(sinks.jsonl)
        if sinks.journald.enabled:
            yield "journald", sinks.journald, lambda: JournaldSink(sinks.journald)
        if sinks.syslog.address:
            yield "syslog", sinks.syslog, lambda: SyslogSink(sinks.syslog)
        for webhook in sinks.webhook:
            yield f"webhook-{webhook.id}", webhook, lambda webhook=webhook: WebhookSink(webhook)  # type: ignore[misc]
        if sinks.otel.endpoint:
            yield "otel", sinks.otel, lambda: self._otel(sinks)

    def _otel(self, sinks: Sinks) -> Sink:
        from agentwatch.sinks.otel import OtelSink  # noqa: PLC0415 (its library is an extra)

        return OtelSink(sinks.otel, self.samples, self._say)

    def _configure_endpoint(self, sinks: Sinks) -> None:
        settings = sinks.prometheus if sinks.prometheus.enabled else None
        if self._endpoint is not None:
            if self._endpoint[0] == settings:
                return
            self._leave(self._endpoint[1].close())
            self._endpoint = None
        if settings is None:
            return
        try:
            endpoint = PrometheusEndpoint(settings, lambda: render(self.samples()), self._scraped, self._say)
            self._endpoint = settings, endpoint
        except ValueError as error:
            self._break("prometheus", error)

    def _break(self, name: str, error: Exception) -> None:
        self._broken[name] = str(error)
        self._say(f"sink {name} is left out: {error}")

    def _leave(self, closing: Any) -> None:
        task = asyncio.ensure_future(closing)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def publish(self, alert: Mapping[str, Any]) -> None:
        """Queue an alert for every sink. Waits for none."""
        if self._outlets:
            item = Item(alert, encode(dict(alert)).encode("ascii"))
            for _, outlet in self._outlets.values():
                outlet.put(item)

    def take_metrics(self, samples: Samples) -> None:
        """What the core has measured."""
        self._told, self._told_at = samples, time.monotonic()

    def status(self) -> dict[str, dict[str, Any]]:
        """By the sink's name: `sent`, `dropped`, `queued` and `error`, empty where it works."""
        found = {name: outlet.status() for name, (_, outlet) in self._outlets.items()}
        if self._endpoint is not None:
            found["prometheus"] = self._endpoint[1].status()
        for name, error in self._broken.items():
            found[name] = {"sent": 0, "dropped": 0, "queued": 0, "error": error}
        return found

    def samples(self) -> Samples:
        """All metrics, as they stand."""
        status = self.status()
        told = dict(self._told)
        told["agentwatch_resident_memory_bytes"] = [
            *told.get("agentwatch_resident_memory_bytes", ()),
            ["front", resident_bytes()],
        ]
        return {
            **told,
            **self._measure(),
            "agentwatch_core_silent_seconds": [[round(time.monotonic() - self._told_at, 3)]],
            "agentwatch_sink_sent_total": [[name, one["sent"]] for name, one in status.items()],
            "agentwatch_sink_dropped_total": [[name, one["dropped"]] for name, one in status.items()],
            "agentwatch_sink_queued": [[name, one["queued"]] for name, one in status.items()],
            "agentwatch_sink_failing": [[name, int(bool(one["error"]))] for name, one in status.items()],
        }

    async def close(self) -> None:
        """End all, after `GRACE` seconds for what waits."""
        for _, outlet in self._outlets.values():
            self._leave(outlet.close(GRACE))
        if self._endpoint is not None:
            self._leave(self._endpoint[1].close())
        self._outlets.clear()
        self._endpoint = None
        if self._leaving:
            await asyncio.wait(self._leaving)
