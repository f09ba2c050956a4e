from __future__ import annotations

from pathlib import Path

from agentwatch.config.sinks import Jsonl, Prometheus, Sinks, Syslog, Webhook, from_plain, plain
from agentwatch.daemon.link import Unpacker, pack


def test_nothing_is_sent_anywhere_by_default() -> None:
    sinks = Sinks()
    assert not (sinks.jsonl.enabled or sinks.journald.enabled or sinks.prometheus.enabled)
    assert not (sinks.syslog.address or sinks.webhook or sinks.otel.endpoint)


def test_the_front_gets_what_the_core_was_configured_with() -> None:
    sinks = Sinks(
        jsonl=Jsonl(enabled=True, path=Path("/var/log/x")),
        syslog=Syslog(address="loghost:6514", transport="tls", ca_file=Path("/etc/ca.pem")),
        prometheus=Prometheus(enabled=True),
        webhook=(
            Webhook(id="a", url="https://a/"),
            Webhook(id="b", url="https://b/", secret_file=Path("/s")),
        ),
    )
    (message,) = Unpacker().feed(pack(plain(sinks)))
    assert from_plain(message) == sinks
