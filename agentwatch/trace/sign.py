"""Signatures over a trace's chain: Ed25519 (RFC 8032), where the `cryptography` package is there.

A signature covers the digest of the frame before it, and through the chain every byte before.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from agentwatch.trace.error import TraceError
from agentwatch.trace.pack import pack, unpack

ALGORITHM = "ed25519"
CONTEXT = b"agentwatch trace signature v1\x00"
MAKE_KEY = "make one with openssl genpkey -algorithm ed25519"


class Signer(Protocol):
    """Signs for a recorder. Another implementation may keep its key elsewhere (an HSM, a TPM)."""

    @property
    def public_key(self) -> bytes:
        """The raw 32 bytes of the Ed25519 public key."""

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature over `message`; may raise anything, which leaves a trace unsigned."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature frame holds."""

    public_key: bytes
    signature: bytes

    def pack(self) -> bytes:
        return pack({"algorithm": ALGORITHM, "public_key": self.public_key, "signature": self.signature})

    @classmethod
    def unpack(cls, data: bytes) -> Signature:
        plain = unpack(data)
        if not isinstance(plain, dict) or plain.get("algorithm") != ALGORITHM:
            raise TraceError("signature of an unknown algorithm")
        key, signature = plain.get("public_key"), plain.get("signature")
        if not isinstance(key, bytes) or not isinstance(signature, bytes):
            raise TraceError("signature is not as the format says")
        return cls(key, signature)

    def covers(self, digest: bytes) -> bool:
        """Whether this is the key's signature over the chain up to `digest`."""
        crypto = _cryptography()
        try:
            key = crypto.ed25519.Ed25519PublicKey.from_public_bytes(self.public_key)
            key.verify(self.signature, CONTEXT + digest)
        except (ValueError, crypto.invalid):
            return False
        return True


class KeyFileSigner:
    """Signs with a private key in memory."""

    def __init__(self, pem: bytes) -> None:
        """Take an unencrypted PKCS #8 PEM file's bytes (`openssl genpkey -algorithm ed25519`)."""
        crypto = _cryptography()
        try:
            self._key = crypto.serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            raise TraceError(f"signing key is no unencrypted PEM: {MAKE_KEY}") from None
        if not isinstance(self._key, crypto.ed25519.Ed25519PrivateKey):
            raise TraceError(f"signing key is no Ed25519 key: {MAKE_KEY}")
        self._public = _raw(crypto, self._key.public_key())

    @property
    def public_key(self) -> bytes:
        return self._public

    def sign(self, message: bytes) -> bytes:
        signature: bytes = self._key.sign(message)
        return signature


def read_signer(path: Path) -> KeyFileSigner:
    """A signer with the key in this file. Raises `TraceError`."""
    try:
        return KeyFileSigner(path.read_bytes())
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from None
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Crypto:
    ed25519: Any
    serialization: Any
    invalid: type[Exception]


def _cryptography() -> _Crypto:
    try:
        return _Crypto(
            importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519"),
            importlib.import_module("cryptography.hazmat.primitives.serialization"),
            importlib.import_module("cryptography.exceptions").InvalidSignature,
        )
    except ImportError:
        raise TraceError("signatures need the cryptography package") from None


def can_sign() -> bool:
    """Whether the package that makes and checks signatures is installed."""
    try:
        _cryptography()
    except TraceError:
        return False
    return True


def public_key_of(pem: bytes) -> bytes:
    """The raw 32 bytes of an Ed25519 public key in PEM (`openssl pkey -pubout`)."""
    crypto = _cryptography()
    try:
        key = crypto.serialization.load_pem_public_key(pem)
    except (ValueError, TypeError):
        raise TraceError("it is no public key in PEM, as openssl pkey -pubout writes it") from None
    if not isinstance(key, crypto.ed25519.Ed25519PublicKey):
        raise TraceError("public key is no Ed25519 key")
    return _raw(crypto, key)


def _raw(crypto: _Crypto, key: Any) -> bytes:
    form = crypto.serialization
    raw: bytes = key.public_bytes(form.Encoding.Raw, form.PublicFormat.Raw)
    return raw
