"""Write BTF by hand, for kernels that do not exist."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from agentwatch.kernel.btf import Kind


@dataclass
class BtfBlob:
    """Adds types, each returning its id, and gives the bytes of the whole."""

    _types: list[bytes] = field(default_factory=list)
    _strings: bytes = b"\0"

    def _name(self, name: str) -> int:
        if not name:
            return 0
        offset = len(self._strings)
        self._strings += name.encode() + b"\0"
        return offset

    def add(
        self, kind: Kind, name: str, size: int = 0, *rest: int, entries: int = 0, flag: bool = False
    ) -> int:
        info = flag << 31 | kind << 24 | entries
        self._types.append(struct.pack(f"<{3 + len(rest)}I", self._name(name), info, size, *rest))
        return len(self._types)

    def integer(self, name: str, size: int, signed: bool = False) -> int:
        return self.add(Kind.INT, name, size, signed << 24 | size * 8)

    def array(self, element: int, count: int) -> int:
        return self.add(Kind.ARRAY, "", 0, element, 1, count)

    def aggregate(
        self, kind: Kind, name: str, size: int, *members: tuple[str, int, int], flag: bool = False
    ) -> int:
        """`members` are (name, type id, bit offset as BTF encodes it)."""
        rest = [word for name_, id_, offset in members for word in (self._name(name_), id_, offset)]
        return self.add(kind, name, size, *rest, entries=len(members), flag=flag)

    def encode(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings
