"""Certificates for whatever name a client asks for, from an authority made here (openssl)."""

from __future__ import annotations

import functools
import re
import ssl
import subprocess
from pathlib import Path

AUTHORITY, AUTHORITY_KEY = "authority.pem", "authority.key"
_NAME = re.compile(r"[A-Za-z0-9.*-]{1,253}")
_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def make_authority(folder: Path) -> Path:
    """Make the authority's key and certificate; return the path of the latter."""
    certificate, key = folder / AUTHORITY, folder / AUTHORITY_KEY
    _openssl(
        ["req", "-x509", *_CURVE, "-subj", "/CN=agentwatch scoreboard", "-days", "2"]
        + ["-keyout", str(key), "-out", str(certificate)]
    )
    return certificate


@functools.cache
def context(folder: Path) -> ssl.SSLContext:
    """Server's side of TLS: a certificate of the name asked for, or of none."""
    made = _context_of(folder, "localhost")
    made.sni_callback = lambda connection, name, _: _choose(folder, connection, name)
    return made


def _choose(folder: Path, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None) -> None:
    if name and _NAME.fullmatch(name):
        connection.context = _context_of(folder, name)


@functools.cache
def _context_of(folder: Path, name: str) -> ssl.SSLContext:
    certificate = folder / f"{name}.pem"
    _openssl(
        ["req", "-x509", *_CURVE, "-subj", f"/CN={name[:64]}", "-days", "2"]
        + ["-addext", f"subjectAltName=DNS:{name}", "-addext", "basicConstraints=critical,CA:FALSE"]
        + ["-CA", str(folder / AUTHORITY), "-CAkey", str(folder / AUTHORITY_KEY)]
        + ["-keyout", str(certificate.with_suffix(".key")), "-out", str(certificate)]
    )
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, certificate.with_suffix(".key"))
    made.set_alpn_protocols(["http/1.1"])
    return made


def _openssl(arguments: list[str]) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
