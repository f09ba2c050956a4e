"""QUIC Initial packets as a client makes them, for tests."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentwatch.detect.quic import VERSIONS, client_keys

ID = bytes.fromhex("8394c8f03e515708")
"""The connection id of the RFCs' examples."""
V1, V2 = VERSIONS


def varint(number: int) -> bytes:
    return (number | 0x4000).to_bytes(2, "big")


def crypto(offset: int, data: bytes) -> bytes:
    """A CRYPTO frame."""
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(frames: bytes, version: int = V1, to: bytes = ID, number: int = 2, size: int = 1162) -> bytes:
    """A protected packet whose frames are padded to `size` bytes, with a packet number of four."""
    keys = client_keys(VERSIONS[version], to)
    first = 0xC3 | VERSIONS[version].initial << 4
    frames = frames.ljust(size, b"\0")
    header = bytes([first]) + version.to_bytes(4, "big") + bytes([len(to)]) + to + b"\0\0"
    header += varint(4 + len(frames) + 16) + number.to_bytes(4, "big")
    nonce = (int.from_bytes(keys.iv, "big") ^ number).to_bytes(12, "big")
    sealed = AESGCM(keys.key).encrypt(nonce, frames, header)
    mask = Cipher(algorithms.AES(keys.header), modes.ECB()).encryptor().update(sealed[:16])
    masked = bytes(byte ^ key for byte, key in zip(header[-4:], mask[1:5], strict=True))
    return bytes([first ^ mask[0] & 0x0F]) + header[1:-4] + masked + sealed
