"""The running kernel's types, read from its BTF (Documentation/bpf/btf.rst).

Only what probes need: find a type by kind and name, its size, and where a member lies.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from agentwatch.kernel.bytecode import VMLINUX, BuildError

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")  # struct btf_header
_TYPE = struct.Struct("<III")  # struct btf_type: name_off, info, size or type
_ARRAY = struct.Struct("<III")  # struct btf_array: type, index_type, nelems
_MEMBER = struct.Struct("<III")  # struct btf_member: name_off, type, offset


class Kind(IntEnum):
    """BTF_KIND_* of the kernel's uapi/linux/btf.h."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# What follows a btf_type: so many bytes, and so many more for each of its `vlen` entries.
_TRAILER = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
_PER_ENTRY = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
    Kind.ENUM64: 12,
}
_NAMED = frozenset((Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.TYPEDEF, Kind.FUNC))
_MODIFIERS = frozenset((Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))
AGGREGATES = frozenset((Kind.STRUCT, Kind.UNION))


class BtfError(BuildError):
    """The data is not BTF that can be read."""


class MissingType(BuildError, LookupError):
    """The kernel has no such type, or the type has no such member."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this kernel has no {what}")
        self.what = what


@dataclass(frozen=True, slots=True)
class Type:
    """One record. `target` is the type referred to (pointers, typedefs, array elements).

    `size` is in bytes; for an array it is the number of elements; 0 where it means nothing.
    """

    id: int
    kind: Kind
    name: str
    size: int = 0
    target: int = 0
    signed: bool = False
    is_union: bool = False  # of a forward declaration


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member lies. `bits` is the width of a bit-field, 0 for an ordinary member."""

    name: str
    type_id: int
    bit_offset: int
    bits: int = 0

    @property
    def offset(self) -> int:
        """Bytes from the start of the struct."""
        return self.bit_offset // 8


class KernelTypes:
    """An index of one BTF blob, little-endian and not split."""

    def __init__(self, data: bytes) -> None:
        """Index `data`. Raises `BtfError`."""
        self._data = data
        try:
            self._index()
        except (struct.error, ValueError, IndexError) as error:
            raise BtfError(f"unreadable BTF: {error}") from error

    @classmethod
    def of_running_kernel(cls, path: Path = VMLINUX) -> KernelTypes:
        """Read /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF). Raises `BtfError`."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise BtfError(f"the kernel's types cannot be read from {path}: {error.strerror}") from error

    def _index(self) -> None:
        data = self._data
        magic, _, _, header, type_offset, type_length, string_offset, string_length = _HEADER.unpack_from(
            data
        )
        if magic != _MAGIC:
            raise BtfError("not BTF: wrong magic number or byte order")
        position = header + type_offset
        end = position + type_length
        self._strings = header + string_offset
        if max(end, self._strings + string_length) > len(data):
            raise BtfError("unreadable BTF: shorter than its header says")
        offsets = array("I", [0])
        by_name_offset: dict[tuple[Kind, int], int] = {}
        kinds = list(Kind)
        unpack = _TYPE.unpack_from
        trailer = [_TRAILER.get(kind, 0) for kind in kinds]
        per_entry = [_PER_ENTRY.get(kind, 0) for kind in kinds]
        named = [kind in _NAMED for kind in kinds]
        while position < end:
            name, info, _ = unpack(data, position)
            kind = info >> 24 & 0x1F
            if named[kind] and name:
                by_name_offset.setdefault((kinds[kind], name), len(offsets))
            offsets.append(position)
            position += 12 + trailer[kind] + per_entry[kind] * (info & 0xFFFF)
        self._offsets = offsets
        self._ids = {(kind, self._string(name)): id for (kind, name), id in by_name_offset.items()}

    def __len__(self) -> int:
        """How many types there are, `void` included."""
        return len(self._offsets)

    def _string(self, offset: int) -> str:
        start = self._strings + offset
        return self._data[start : self._data.index(0, start)].decode()

    def type(self, type_id: int) -> Type:
        """The record with this id."""
        if type_id == 0:
            return Type(0, Kind.VOID, "void")
        position = self._offsets[type_id]
        name_offset, info, size = _TYPE.unpack_from(self._data, position)
        kind, name = Kind(info >> 24 & 0x1F), self._string(name_offset)
        if kind is Kind.INT:
            (encoding,) = struct.unpack_from("<I", self._data, position + _TYPE.size)
            return Type(type_id, kind, name, size, signed=bool(encoding >> 24 & 1))
        if kind is Kind.ARRAY:
            element, _, count = _ARRAY.unpack_from(self._data, position + _TYPE.size)
            return Type(type_id, kind, name, count, target=element)
        if kind is Kind.FWD:
            return Type(type_id, kind, name, is_union=bool(info >> 31))
        if kind in (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC):
            return Type(type_id, kind, name, size, signed=bool(info >> 31))
        return Type(type_id, kind, name, target=size)

    def type_id(self, kind: Kind, name: str) -> int:
        """The id by which bpf(2) knows the type: `attach_btf_id`, a kfunc's `imm`. Raises `MissingType`."""
        try:
            return self._ids[kind, name]
        except KeyError:
            raise MissingType(f"{kind.name.lower()} {name}") from None

    def aggregate(self, name: str) -> Type:
        """The struct or union `name`, or what the typedef `name` stands for. Raises `MissingType`."""
        for kind in (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF):
            type_id = self._ids.get((kind, name))
            if type_id is not None:
                found = self.resolve(type_id)
                if found.kind in AGGREGATES:
                    return found
        raise MissingType(f"struct {name}")

    def resolve(self, type_id: int) -> Type:
        """The type behind typedefs and qualifiers."""
        found = self.type(type_id)
        while found.kind in _MODIFIERS:
            found = self.type(found.target)
        return found

    def size(self, type_id: int) -> int:
        """`sizeof`, in bytes."""
        found = self.resolve(type_id)
        if found.kind is Kind.PTR:
            return 8
        if found.kind is Kind.ARRAY:
            return found.size * self.size(found.target)
        return found.size

    def members(self, type_id: int) -> Iterator[Member]:
        """The members of a struct or union in order; an anonymous one has an empty name."""
        position = self._offsets[type_id]
        _, info, _ = _TYPE.unpack_from(self._data, position)
        for index in range(info & 0xFFFF):
            name, member_type, offset = _MEMBER.unpack_from(self._data, position + 12 * (index + 1))
            bits = 0
            if info >> 31:  # kind_flag: the width of a bit-field shares the word
                bits, offset = offset >> 24, offset & 0xFFFFFF
            yield Member(self._string(name), member_type, offset, bits)

    def member(self, aggregate: str, name: str) -> Member:
        """Member `name`, found through anonymous structs and unions. Raises `MissingType`."""
        found = self._member(self.aggregate(aggregate).id, name, 0)
        if found is None:
            raise MissingType(f"member {name} in struct {aggregate}")
        return found

    def _member(self, type_id: int, name: str, base: int) -> Member | None:
        for member in self.members(type_id):
            if member.name == name:
                return Member(name, member.type_id, base + member.bit_offset, member.bits)
            if not member.name:
                inner = self.resolve(member.type_id)
                if inner.kind not in AGGREGATES:  # an unnamed bit-field: padding
                    continue
                found = self._member(inner.id, name, base + member.bit_offset)
                if found is not None:
                    return found
        return None
