"""Where alerts and metrics go. By default nowhere: each sink is switched on by its own section.

The core hands them to the front as plain data (`plain`), which makes them again (`from_plain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from agentwatch.config.declare import section, setting, tables
from agentwatch.rules.levels import LEVELS

Section = TypeVar("Section")

FACILITIES = (
    "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp ntp audit alert clock "
    "local0 local1 local2 local3 local4 local5 local6 local7"
).split()
"""Syslog's, by their codes (RFC 5424, 6.2.1)."""

_ENABLED = "whether it is used"
_LEVEL = "leave out alerts of rules below this level"
_CA_FILE = "the certificates that may have signed the other side's (PEM); the system's where not given"


def _level() -> Any:
    return setting(_LEVEL, LEVELS[0], choices=LEVELS)


@dataclass(frozen=True, slots=True)
class Jsonl:
    """Alerts in a file of JSON lines."""

    enabled: bool = setting(_ENABLED, False)
    path: Path = setting("the file; older ones are `.1`, `.2`, ...", Path("/var/log/agentwatch/alerts.jsonl"))
    level: str = _level()
    rotate_bytes: int = setting("a file grows no larger", 64 << 20, minimum=4096)
    rotate_seconds: int = setting(
        "a new file begins with each such span of UTC, 86400 being days; 0: never", 86_400, minimum=0
    )
    keep: int = setting("how many older files stay", 7, minimum=0, maximum=1000)


@dataclass(frozen=True, slots=True)
class Journald:
    """Alerts in systemd's journal, with structured fields."""

    enabled: bool = setting(_ENABLED, False)
    level: str = _level()
    socket: Path = setting("the journal's native socket", Path("/run/systemd/journal/socket"))


@dataclass(frozen=True, slots=True)
class Syslog:
    """Alerts to a syslog receiver (RFC 5424)."""

    address: str = setting("host:port, or [address]:port for IPv6; not used where empty", "")
    transport: str = setting("how they travel", "udp", choices=("udp", "tcp", "tls"))
    level: str = _level()
    facility: str = setting("the facility, by its name", "authpriv", choices=FACILITIES)
    ca_file: Path | None = setting(_CA_FILE, None)
    cert_file: Path | None = setting("our certificate, for a receiver that asks for one", None)
    key_file: Path | None = setting("the key of `cert_file`, where that does not hold it", None)

    def flaw(self) -> str:
        """What is wrong with the whole; empty."""
        return _flaw_of_address(self.address) if self.address else ""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Metrics to be scraped, on the loopback interface alone."""

    enabled: bool = setting(_ENABLED, False)
    listen: str = setting("a loopback address and a port", "127.0.0.1:9469")
    probe_times: str = setting(
        "when the kernel counts and times the runs of probes, which costs a little on each run",
        "scraped",
        choices=("always", "scraped", "never"),
    )

    def flaw(self) -> str:
        """What is wrong with the whole; empty."""
        return _flaw_of_address(self.listen, loopback=True) if self.enabled else ""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Alerts as signed JSON to an HTTPS endpoint."""

    id: str = setting("its name", "", pattern="[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
    url: str = setting("where to; http is for the loopback interface alone", "", pattern="https?://.+")
    level: str = _level()
    secret_file: Path | None = setting("its content signs the body; root alone may read the file", None)
    ca_file: Path | None = setting(_CA_FILE, None)
    timeout_seconds: int = setting("for one request", 10, minimum=1, maximum=15)

    def flaw(self) -> str:
        """What is wrong with the whole; empty."""
        return _flaw_of_url(self.url)


@dataclass(frozen=True, slots=True)
class Otel:
    """OpenTelemetry logs and metrics over OTLP/HTTP. Needs `pip install agentwatch[otel]`."""

    endpoint: str = setting("the collector's base URL (`http://127.0.0.1:4318`); not used where empty", "")
    level: str = _level()
    interval_seconds: int = setting("between two exports of metrics", 15, minimum=1)
    ca_file: Path | None = setting(_CA_FILE, None)

    def flaw(self) -> str:
        """What is wrong with the whole; empty."""
        return _flaw_of_url(self.endpoint) if self.endpoint else ""


@dataclass(frozen=True, slots=True)
class Sinks:
    """Where alerts and metrics go."""

    jsonl: Jsonl = section(Jsonl)
    journald: Journald = section(Journald)
    syslog: Syslog = section(Syslog)
    prometheus: Prometheus = section(Prometheus)
    webhook: tuple[Webhook, ...] = tables(Webhook.__doc__ or "")
    otel: Otel = section(Otel)


def _flaw_of_address(text: str, *, loopback: bool = False) -> str:
    from agentwatch.sinks.address import Address  # noqa: PLC0415 (most configurations name none)

    try:
        address = Address.parse(text)
    except ValueError as error:
        return str(error)
    return f"{text} is no address of the loopback interface" if loopback and not address.loopback else ""


def _flaw_of_url(url: str) -> str:
    from agentwatch.sinks.http import Target  # noqa: PLC0415 (most configurations name none)

    try:
        Target.parse(url)
    except ValueError as error:
        return str(error)
    return ""


def plain(value: Any) -> Any:
    """Sections as a message carries them."""
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_plain(data: Mapping[str, Any]) -> Sinks:
    """What `plain` was made of."""
    kinds = get_type_hints(Sinks)
    made = {name: _made(kinds[name], one) for name, one in data.items() if name != "webhook"}
    return Sinks(webhook=tuple(_made(Webhook, one) for one in data["webhook"]), **made)


def _made(kind: type[Section], data: Mapping[str, Any]) -> Section:
    hints = get_type_hints(kind)
    paths = {name for name, hint in hints.items() if Path in (hint, *get_args(hint))}
    return kind(**{name: Path(one) if one and name in paths else one for name, one in data.items()})
