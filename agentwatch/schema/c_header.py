"""The C header of the events, for the probes. Its assertions hold the compiler to the schema."""

from __future__ import annotations

from agentwatch.schema import events
from agentwatch.schema.events import EVENTS, HEADER, EventType, Field, Ring
from agentwatch.schema.layout import HEADER_FIELDS, HEADER_SIZE, Placed, body, end_of_fields, place


def _member(field: Field) -> str:
    if field.type.startswith("bytes"):
        return f"    u8 {field.name}[{field.type[5:]}];"
    return f"    {field.type} {field.name};"


def _assertions(struct_name: str, placed: tuple[Placed, ...]) -> list[str]:
    return [
        f"_Static_assert(__builtin_offsetof(struct {struct_name}, {p.field.name}) == {p.offset}, "
        f'"{struct_name}.{p.field.name}");'
        for p in placed
    ]


def _event(event: EventType) -> list[str]:
    placed, size = body(event)
    name = f"aw_{event.name}"
    lines = [f"struct {name} {{", "    struct aw_header header;"]
    fields = event.fields
    if fields[: len(events.SOCKET_BLOCK)] == events.SOCKET_BLOCK:
        # One member, so that a probe fills or copies the whole block at once.
        lines.append("    struct aw_socket_block socket;")
        fields = fields[len(events.SOCKET_BLOCK) :]
        placed = placed[len(events.SOCKET_BLOCK) :]
    lines += [_member(f) for f in fields]
    end = end_of_fields(event)
    if size > end:
        lines.append(f"    u8 padding[{size - end}];")
    if event.tail:
        lines.append("    u8 data[];")
    lines += ["};", *_assertions(name, placed)]
    lines.append(f'_Static_assert(sizeof(struct {name}) == {size}, "size of {name}");')
    return lines


def _constants() -> list[str]:
    lines = [f"#define AW_{t.name} {int(t)}" for t in events.Type]
    lines += [f"#define AW_EXEC_{f.name} {int(f)}" for f in events.ExecFlag]
    lines += [f"#define AW_PIECE_{p.name} {int(p)}" for p in (*events.Piece, *events.PieceFlag)]
    lines += [f"#define AW_STREAM_{k.name} {int(k)}" for k in events.StreamKind]
    lines += [f"#define AW_PAYLOAD_{f.name} {int(f)}" for f in events.PayloadFlag]
    lines += [f"#define AW_ACCESS_{a.name} {int(a)}" for a in events.Access]
    lines += [f"#define AW_FILE_{f.name} {int(f)}" for f in events.FileFlag]
    lines += [f"#define AW_OPERATION_{o.name} {int(o)}" for o in events.Operation]
    lines += [f"#define AW_PRIVILEGED_{f.name} {int(f)}" for f in events.PrivilegedFlag]
    lines += [f"#define AW_DENIAL_{d.name} {int(d)}" for d in events.Denial]
    lines += [f"#define AW_NAMESPACE_{n.name} {int(n)}" for n in events.Namespace]
    lines.append(f"#define AW_NAMESPACES {len(events.Namespace)}")
    lines.append(f"#define AW_BPF_TOLD {sum(1 << command for command in events.BpfCommand)}ULL")
    for name in (
        "ARGV_LIMIT",
        "PAYLOAD_BYTES",
        "HANDSHAKE_BYTES",
        "PAYLOAD_MESSAGES",
        "PROGRESS_BYTES",
        "WATCHED_LEVELS",
        "WATCHED_NAME",
    ):
        lines.append(f"#define AW_{name} {getattr(events, name)}")
    for name in (
        "SAMPLE_INTERVAL_NS",
        "FOLLOW_INTERVAL_NS",
        "PROGRESS_INTERVAL_NS",
        "QUIET_NS",
        "FILE_INTERVAL_NS",
    ):
        lines.append(f"#define AW_{name} {getattr(events, name)}ULL")
    lines.append(f"#define AW_TYPES {max(events.Type) + 1}")
    return lines


def emit() -> str:
    """The whole header: constants, `struct aw_header`, one struct an event, layout assertions."""
    socket_fields, socket_size = place(events.SOCKET_BLOCK, 0)
    lines = [*_constants(), "struct aw_header {", *(_member(f) for f in HEADER), "};"]
    lines += _assertions("aw_header", HEADER_FIELDS)
    lines.append(f'_Static_assert(sizeof(struct aw_header) == {HEADER_SIZE}, "size of aw_header");')
    lines += ["struct aw_socket_block {", *(_member(p.field) for p in socket_fields), "};"]
    lines.append(
        f'_Static_assert(sizeof(struct aw_socket_block) == {socket_size}, "size of aw_socket_block");'
    )
    for event in EVENTS:
        if event.ring is not Ring.NOTES:
            lines += _event(event)
    return "\n".join(lines) + "\n"
