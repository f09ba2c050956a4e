"""Probes compiled here for a kernel that does not run here: a machine need not run the compiler.

That takes the kernel's types, which lie in its image. A machine whose own types are others compiles.
"""

from __future__ import annotations

import ctypes as ct
import gzip
import lzma
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import zstandard

from agentwatch.kernel.bytecode import BuildError
from agentwatch.kernel.cache import cached_object
from agentwatch.kernel.probes import recipe
from vmtests.kernels import Unavailable, Unpacked

# Documentation/arch/x86/boot.rst: number of 512-byte sectors before the rest; where in that the packed
# kernel lies, and its length, in bytes.
_SECTORS, _PAYLOAD = struct.Struct("<497xB"), struct.Struct("<584xII")
_LZ4, _LZ4_BLOCK = b"\x02\x21\x4c\x18", 8 << 20
_ELF_HEADER = struct.Struct("<40xQ10xHHH")  # of 64 bits: section headers: offset, size of one, count, names
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)  # what unpacking raises
_SECTION = struct.Struct("<I20xQQ24x")  # name, offset, size


def probes(kernel: Unpacked, cache: Path) -> Path:
    """A cache of probes as `agentwatch.kernel.cache` keeps them. Raises `Unavailable`."""
    folder = cache / "probes"
    types = cache / f"{kernel.release}.btf"
    if not types.exists():
        types.write_bytes(btf(kernel.image.read_bytes()))
    with suppress(BuildError):  # where they cannot be made, that is for the machine to say
        cached_object(recipe(), folder, types)
    return folder


def btf(image: bytes) -> bytes:
    """The types in an x86 kernel image (bzImage). Raises `Unavailable`."""
    try:
        elf = _unpacked(image)
        headers, size, count, names = _ELF_HEADER.unpack_from(elf)
        sections = [_SECTION.unpack_from(elf, headers + number * size) for number in range(count)]
        _, name_table, _ = sections[names]
        for name, offset, length in sections:
            if elf.startswith(b".BTF\0", name_table + name):
                return elf[offset : offset + length]
    except (struct.error, IndexError, ValueError, OSError, *_DAMAGED) as error:
        raise Unavailable(f"the kernel's image cannot be read: {error}") from error
    raise Unavailable("the kernel's image has no BTF")


def _unpacked(image: bytes) -> bytes:
    (sectors,) = _SECTORS.unpack_from(image)
    offset, length = _PAYLOAD.unpack_from(image)
    begin = (sectors + 1) * 512 + offset
    packed = image[begin : begin + length]
    if packed.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    if packed.startswith(b"\x1f\x8b"):
        return gzip.decompress(packed[:-4])  # after it comes its length
    if packed.startswith(_LZ4):
        return _lz4(packed[len(_LZ4) : -4])
    raise ValueError("it is packed in an unknown way")


def _lz4(packed: bytes) -> bytes:
    """The legacy format (lz4_Frame_format.md): blocks, each after its length."""
    decompress = ct.CDLL("liblz4.so.1").LZ4_decompress_safe  # which apt needs itself
    room = ct.create_string_buffer(_LZ4_BLOCK)
    out, at = bytearray(), 0
    while at + 4 < len(packed):
        (length,) = struct.unpack_from("<I", packed, at)
        block = packed[at + 4 : at + 4 + length]
        at += 4 + length
        got = decompress(block, room, len(block), len(room))
        if got < 0:
            raise ValueError("a block is damaged")
        out += room.raw[:got]
    return bytes(out)
