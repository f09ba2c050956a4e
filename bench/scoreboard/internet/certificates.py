"""Certificates for whatever name a client asks for, from an authority made here (openssl)."""

from __future__ import annotations

import functools
import re
import ssl
import subprocess
import threading
from pathlib import Path

AUTHORITY, AUTHORITY_KEY = "authority.pem", "authority.key"
_NAME = re.compile(r"[A-Za-z0-9.*-]{1,253}")
_LOCK = threading.Lock()
_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def make_authority(folder: Path) -> Path:
    """Make the authority's key and certificate; return the path of the latter."""
    certificate, key = folder / AUTHORITY, folder / AUTHORITY_KEY
    _certify("/CN=agentwatch scoreboard", key, certificate)
    return certificate


@functools.cache
def context(folder: Path) -> ssl.SSLContext:
    """Server's side of TLS: a certificate of the name asked for, or of none."""
    made = _context_of(folder, "localhost")
    made.sni_callback = lambda connection, name, _: _choose(folder, connection, name)
    return made


def _choose(folder: Path, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None) -> None:
    if name and _NAME.fullmatch(name):
        with _LOCK:  # a name that is asked for twice at once gets one certificate
            connection.context = _context_of(folder, name)


@functools.cache
def _context_of(folder: Path, name: str) -> ssl.SSLContext:
    key, certificate = folder / f"of-{name}.key", folder / f"of-{name}.pem"
    ours = ["-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"]
    signed = ["-CA", str(folder / AUTHORITY), "-CAkey", str(folder / AUTHORITY_KEY)]
    _certify(f"/CN={name[:64]}", key, certificate, *ours, *signed)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    made.set_alpn_protocols(["http/1.1"])
    return made


def _certify(subject: str, key: Path, certificate: Path, *options: str) -> None:
    command = ["openssl", "req", "-x509", *_CURVE, "-days", "2", "-subj", subject, *options]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *files], check=True, capture_output=True)
