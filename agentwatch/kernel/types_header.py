"""A C header with exactly the wanted kernel structs and fields, laid out as in the running kernel.

Every field is a member of a union, pushed to its offset by a char array: no bit-fields and no
compiler's idea of padding, which differs between the kernel's target and BPF. `_Static_assert`s
check each offset and size again when the header is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from agentwatch.kernel.btf import AGGREGATES, KernelTypes, Kind, Member, MissingType, Type
from agentwatch.kernel.bytecode import Spec

_INTEGERS = {1: "8", 2: "16", 4: "32", 8: "64", 16: "128"}


def kernel_header(types: KernelTypes, required: Spec, optional: Spec | None = None) -> str:
    """C text that defines the structs of both specs with their fields.

    For each field there is `HAVE_<struct>__<field>`, for each type `BTF_ID_<struct>`. A bit-field
    has no member but `<struct>__<field>__BIT_OFFSET` and `__BIT_SIZE`. What is missing of
    `optional` is left out; what is missing of `required` raises `MissingType`. A nested struct
    that is in no spec is an array of bytes, a pointer to one is a pointer to an incomplete type.
    """
    return _Header(types, required, optional or {}).text()


class _Header:
    def __init__(self, types: KernelTypes, required: Spec, optional: Spec) -> None:
        self._types = types
        self._wanted: dict[str, list[Member]] = {}
        for name, fields in required.items():
            self._wanted[name] = [types.member(name, field) for field in fields]
            types.aggregate(name)  # a struct may be wanted without fields
        for name, fields in optional.items():
            self._want_if_there(name, fields)
        self._alignment: dict[str, int] = {}
        self._declared: dict[str, str] = {}
        self._definitions: list[str] = []

    def _want_if_there(self, name: str, fields: Sequence[str]) -> None:
        try:
            self._types.aggregate(name)
        except MissingType:
            return
        members = self._wanted.setdefault(name, [])
        for field in fields:
            with suppress(MissingType):
                member = self._types.member(name, field)
                if member not in members:
                    members.append(member)

    def text(self) -> str:
        for name in self._wanted:
            self._define(name)
        declarations = [f"{keyword} {name};" for name, keyword in sorted(self._declared.items())]
        return "\n".join(
            ["/* Generated from the running kernel's BTF. */", *declarations, *self._definitions, ""]
        )

    def _define(self, name: str) -> int:
        """Define `name` unless it is defined, what it holds by value first; returns its alignment."""
        if name in self._alignment:
            return self._alignment[name]
        aggregate = self._types.aggregate(name)
        size, alignment = aggregate.size, 1
        body, notes = [f"char _size[{size}];"], [f"#define BTF_ID_{name} {aggregate.id}"]
        for member in self._wanted[name]:
            prefix = f"{name}__{member.name}"
            if member.bits:
                notes.append(f"#define {prefix}__BIT_OFFSET {member.bit_offset}")
                notes.append(f"#define {prefix}__BIT_SIZE {member.bits}")
                continue
            declaration, natural = self._declare(member.type_id, member.name)
            packed = bool(member.offset % natural or size % natural)
            alignment = max(alignment, 1 if packed else natural)
            body.append(_placed(member, declaration, packed))
            notes.append(f"#define HAVE_{prefix} 1")
        self._alignment[name] = alignment
        reference = self._reference(name, aggregate)
        opening, closing = (f"{reference} {{", "};")
        if reference == name:
            opening, closing = "typedef struct {", f"}} {name};"
        inner = "\n        ".join(body)
        self._definitions += [f"{opening}\n    union {{\n        {inner}\n    }};\n{closing}", *notes]
        self._definitions.append(f'_Static_assert(sizeof({reference}) == {size}, "{name}");')
        for member in self._wanted[name]:
            if not member.bits:
                place = f"__builtin_offsetof({reference}, {member.name})"
                self._definitions.append(
                    f'_Static_assert({place} == {member.offset}, "{name}.{member.name}");'
                )
        return alignment

    def _declare(self, type_id: int, name: str) -> tuple[str, int]:
        """A declarator of the type, and the alignment that C gives it in bytes."""
        wanted = self._wanted_name(type_id)
        if wanted is not None:
            alignment = self._define(wanted)
            return f"{self._reference(wanted, self._types.aggregate(wanted))} {name}", alignment
        found = self._types.resolve(type_id)
        if found.kind is Kind.PTR:
            return f"{self._pointed_at(found.target)} *{name}", 8
        if found.kind is Kind.ARRAY:
            return self._declare(found.target, f"{name}[{found.size}]")
        if found.kind in (Kind.INT, Kind.ENUM, Kind.ENUM64) and found.size in _INTEGERS:
            bits = _INTEGERS[found.size]
            keyword = f"__int{bits}" if bits == "128" else f"{'s' if found.signed else 'u'}{bits}"
            return f"{keyword} {name}", found.size
        return f"u8 {name}[{self._types.size(found.id)}]", 1

    def _wanted_name(self, type_id: int) -> str | None:
        """The first name on the way through typedefs to the type itself that a spec asks for."""
        found = self._types.type(type_id)
        while True:
            if found.name in self._wanted and found.kind in (*AGGREGATES, Kind.TYPEDEF):
                return found.name
            if not found.target or found.kind in (Kind.PTR, Kind.ARRAY):
                return None
            found = self._types.type(found.target)

    def _pointed_at(self, type_id: int) -> str:
        target = self._types.resolve(type_id)
        if target.kind in AGGREGATES | {Kind.FWD} and target.name:
            is_union = target.kind is Kind.UNION or target.is_union
            keyword = "union" if is_union else "struct"
            self._declared[target.name] = keyword
            return f"{keyword} {target.name}"
        return "void"

    def _reference(self, name: str, aggregate: Type) -> str:
        """How C names the type: `struct x`, `union x`, or `x` for a typedef of an anonymous one."""
        if aggregate.name != name:
            return name
        return f"{'union' if aggregate.kind is Kind.UNION else 'struct'} {name}"


def _placed(member: Member, declaration: str, packed: bool) -> str:
    padding = f"char _before_{member.name}[{member.offset}]; " if member.offset else ""
    attribute = " __attribute__((packed))" if packed else ""
    return f"struct {{ {padding}{declaration}; }}{attribute};"
