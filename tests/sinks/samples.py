"""Alerts to be delivered, and what tests of sinks share."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentwatch.sinks.alerts import encode
from agentwatch.sinks.outlet import Item

T = TypeVar("T")


def alert(number: int = 0, *, level: str = "high", **process: Any) -> dict[str, Any]:
    """An alert as the pipeline makes them."""
    return {
        "time": f"2026-11-24T12:00:00.{number:09d}Z",
        "rule": {
            "id": "5e0a7b6e-0f63-4c39-9c57-9a3b1d7d1a11",
            "title": "Stratum handshake",
            "level": level,
            "tags": ["attack.impact"],
        },
        "verdict": "match",
        "undecided": [],
        "agent": "job",
        "mode": "enforce",
        "response": "pause",
        "acted": "pause",
        "error": None,
        "latency_us": 900,
        "process": {
            "pid": 4000 + number,
            "start_time": "2026-11-24T11:59:59.000000000Z",
            "exe": "/usr/bin/python3",
            "cmdline": "python3 train.py",
            "argv": ["python3", "train.py"],
            "cwd": "/",
            "user": "root",
            "ancestors": [],
            **process,
        },
        "flow": {
            "protocol": "stratum",
            "transport": "tcp",
            "local": "10.0.0.1:4000",
            "remote": "192.0.2.7:3333",
            "domain": "pool.test",
            "initiated": True,
        },
        "event": {},
        "evidence": [number],
        "completeness": {"state": "complete", "why": []},
    }


def item(number: int = 0, **options: Any) -> Item:
    """One that waits for a sink."""
    made = alert(number, **options)
    return Item(made, encode(made).encode("ascii"))


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario, for a minute at most."""

    async def main() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(main())


async def until(condition: Callable[[], T]) -> T:
    """Look at a condition until it is true, letting others work."""
    while not (value := condition()):
        await asyncio.sleep(0.002)
    return value


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for a name, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_file, key_file
