"""The types in a kernel's image, however it is packed."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from vmtests.kernels import Unavailable
from vmtests.prepared import btf

TYPES = b"\x9f\xeb types " * 1000
NAMES = b"\0.text\0.BTF\0.BTF_ids\0"


def elf() -> bytes:
    """With the sections .BTF_ids, .BTF, and that of their names."""
    bodies = [(NAMES.index(b".BTF_ids\0"), b"ids"), (NAMES.index(b".BTF\0"), TYPES), (0, NAMES)]
    body, headers = bytearray(64), bytearray()
    for name, content in bodies:
        headers += struct.pack("<I20xQQ24x", name, len(body), len(content))
        body += content
    struct.pack_into("<40xQ10xHHH", body, 0, len(body), 64, len(bodies), len(bodies) - 1)
    return bytes(body + headers)


def lz4(data: bytes) -> bytes:
    """Blocks of literals alone."""
    count, rest = len(data), bytearray()
    left = count - 15
    while left >= 255:
        rest.append(255)
        left -= 255
    block = b"\xf0" + bytes(rest) + bytes([left]) + data
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


def image(payload: bytes) -> bytes:
    """A boot sector, one more, a little code, and the packed kernel with its length."""
    head = bytearray(1024 + 32)
    head[0x1F1] = 1
    payload += struct.pack("<I", 0)
    struct.pack_into("<II", head, 0x248, 32, len(payload))
    return bytes(head) + payload


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress, lz4])
def test_the_types_are_found(pack: Callable[[bytes], bytes]) -> None:
    assert btf(image(pack(elf()))) == TYPES


@given(st.binary(max_size=2000))
@example(b"\x1f\x8b")  # gzip's, and no more
@example(b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xff")
def test_what_is_no_kernel_is_said_to_be_none(data: bytes) -> None:
    for what in (data, image(data), image(gzip.compress(data)), image(b"\x02\x21\x4c\x18" + data)):
        with pytest.raises(Unavailable):
            btf(what)
