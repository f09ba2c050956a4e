"""Signatures over the chain."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agentwatch.trace.error import TraceError
from agentwatch.trace.pack import pack
from agentwatch.trace.sign import CONTEXT, KeyFileSigner, Signature, can_sign
from agentwatch.trace.verify import verify
from agentwatch.trace.writer import TraceWriter
from tests.trace.samples import header, rounds

# Ed25519 keys for these tests and nothing else: the secret is 32 bytes of 0x11 and of 0x22.
PEM = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIBERERERERERERERERERERERERERERERERERERERERER
-----END PRIVATE KEY-----
"""
OTHER = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEICIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIi
-----END PRIVATE KEY-----
"""
signs = pytest.mark.skipif(not can_sign(), reason="the cryptography package is not installed")


def _write(path: Path, pem: bytes = PEM) -> None:
    with TraceWriter(path, header(), signer=KeyFileSigner(pem)) as writer:
        for batches in rounds(5):
            writer.append(batches)


@signs
def test_a_signature_covers_the_chain_up_to_it() -> None:
    signer = KeyFileSigner(PEM)
    digest = b"d" * 32
    signature = Signature(signer.public_key, signer.sign(CONTEXT + digest))
    assert signature.covers(digest)
    assert not signature.covers(b"e" * 32)
    assert not Signature(KeyFileSigner(OTHER).public_key, signature.signature).covers(digest)
    assert not Signature(b"short", b"").covers(digest)


@signs
def test_a_recording_is_signed_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    _write(path)
    report = verify(path)
    assert report.whole and report.closed
    assert report.header.public_key == KeyFileSigner(PEM).public_key
    assert report.signers == {KeyFileSigner(PEM).public_key}
    assert report.signed_through == 2  # header, rounds, end


@signs
def test_a_stranger_s_signature_is_bad_where_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    _write(path, OTHER)
    report = verify(path, trusted=[KeyFileSigner(PEM).public_key])
    assert not report.whole and report.bad_signatures == 1 and report.signed_through is None


@signs
def test_a_signature_moved_to_another_place_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "x.awt"
    _write(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert not verify(path).whole


@signs
@pytest.mark.parametrize("pem", [b"", b"junk", PEM.replace(b"MC4C", b"MC4D")])
def test_keys_that_are_none_are_refused(pem: bytes) -> None:
    with pytest.raises(TraceError):
        KeyFileSigner(pem)


@pytest.mark.parametrize(
    "plain", [None, [], {"algorithm": "rsa"}, {"algorithm": "ed25519", "public_key": "x", "signature": b""}]
)
def test_signature_frames_that_are_none_are_refused(plain: object) -> None:
    with pytest.raises(TraceError):
        Signature.unpack(pack(plain))


def test_without_the_package_a_trace_can_be_read_and_its_signatures_count_as_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.awt"

    class Signer:
        public_key = b"k" * 32

        def sign(self, message: bytes) -> bytes:
            return b"s" * 64

    with TraceWriter(path, header(), signer=Signer()) as writer:
        writer.append(rounds(1)[0])
    for name in list(sys.modules):
        if name.split(".")[0] == "cryptography":
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert not can_sign()
    report = verify(path)
    assert not report.damage and report.bad_signatures == 1
    with pytest.raises(TraceError, match="cryptography"):
        KeyFileSigner(PEM)


def test_a_signer_that_fails_leaves_the_trace_unsigned(tmp_path: Path) -> None:
    class Broken:
        public_key = b"k" * 32

        def sign(self, message: bytes) -> bytes:
            raise RuntimeError("the token was pulled out")

    path = tmp_path / "x.awt"
    writer = TraceWriter(path, header(), signer=Broken())
    writer.append(rounds(1)[0])
    status = writer.close()
    assert "pulled out" in status.last_error and status.lost_rounds == 0
    report = verify(path)
    assert report.whole and report.closed and report.signatures == 0
