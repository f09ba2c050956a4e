from __future__ import annotations

from pathlib import Path

import pytest

from agentwatch.config.sinks import Jsonl, Otel, Prometheus, Sinks, Syslog, Webhook, from_plain, plain
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


@pytest.mark.parametrize(
    ("section", "flaw"),
    [
        (Syslog(), ""),
        (Syslog(address="[fd00::1]:514"), ""),
        (Syslog(address="loghost"), "loghost is not host:port"),
        (Syslog(address="fd00::1:514"), "fd00::1:514: an IPv6 address stands in brackets"),
        (Prometheus(listen="0.0.0.0:1"), ""),
        (Prometheus(enabled=True, listen="[::1]:9469"), ""),
        (Prometheus(enabled=True, listen="0.0.0.0:1"), "0.0.0.0:1 is no address of the loopback interface"),
        (Webhook(url="https://hooks.test/x"), ""),
        (Webhook(), "url is no http or https URL"),
        (Webhook(url="http://hooks.test/x"), "http is for the loopback interface alone; use https"),
        (Otel(), ""),
        (Otel(endpoint="http://[::1]:4318"), ""),
        (Otel(endpoint="grpc://127.0.0.1:4317"), "url is no http or https URL"),
    ],
)
def test_what_is_wrong_is_told(section: Syslog | Prometheus | Webhook | Otel, flaw: str) -> None:
    assert section.flaw() == flaw
