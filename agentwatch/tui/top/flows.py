"""Connections: which protocol, with whom, how much, and what was said first."""

from __future__ import annotations

from typing import Any

from agentwatch.tui.text import byte_count
from agentwatch.tui.top.model import (
    Column,
    Context,
    Line,
    Listing,
    Question,
    Row,
    Screen,
    clock,
    line,
    line_of_field,
    words,
)

_SHOWN = 500
_HEX_BYTES = 16  # in a line


class Flows(Screen):
    name = "flows"
    empty = "No connection was seen."
    newest_first = True
    fields = (
        "Agent", "ProcessId", "Protocol", "Transport", "SourceIp", "SourcePort", "DestinationIp",
        "DestinationPort", "DestinationHostname", "Initiated", "BytesOut", "BytesIn", "Closed",
    )  # fmt: skip

    def requests(self, context: Context) -> list[Question]:
        return [Question("flows", {"agent": context.agent, "limit": _SHOWN})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        agent = () if context.agent else (Column("AGENT", 8, grow=1, rank=2),)
        return (
            *agent,
            Column("PROTOCOL", 8, grow=1),
            Column("REMOTE", 21, grow=2),
            Column("NAME", 16, grow=3, rank=1),
            Column("SENT", 6, right=True),
            Column("RECEIVED", 8, right=True),
            Column("PID", 7, rank=3, right=True),
            Column("STATE", 6),
            Column("OPENED", 8, rank=4),
        )

    def rows(self, context: Context) -> Listing:
        found = context.answers.get("flows", {}).get("flows", [])
        newest_first = found[::-1]
        open_first = sorted(newest_first, key=lambda flow: bool(flow["closed"]))
        return Listing(
            ((str(flow["id"]), flow) for flow in open_first), lambda key, flow: _row(key, flow, context)
        )

    def remark(self, context: Context) -> str:
        more = context.answers.get("flows", {}).get("more", 0)
        return f"{more:,} older connections are not shown" if more else ""

    def summary(self, row: Row, context: Context) -> list[Line]:
        flow = row.record
        ended = f", closed {clock(flow['closed'])}" if flow["closed"] else ", open"
        return [
            line((flow["protocol"], "bold"), f" over {flow['transport']}: {_direction(flow)}"),
            line(
                f"{byte_count(flow['bytes_out'])} sent, {byte_count(flow['bytes_in'])} received; "
                f"process {flow['pid']} of {flow['agent']}; since {clock(flow['opened'])} UTC{ended}"
            ),
            line("enter shows what each side said first"),
        ]

    def question(self, row: Row) -> Question | None:
        return Question("flow", {"flow": str(row.record["id"])})

    def page(self, row: Row, answer: Any) -> list[Line]:
        flow = answer
        lines = [
            line((f"{flow['protocol']} connection of {flow['agent']}", "bold")),
            line(),
            line_of_field(("connection", _direction(flow))),
            line_of_field(("name", flow["domain"] or "-")),
            line_of_field(("protocol", f"{flow['protocol']} over {flow['transport']}")),
            line_of_field(("process", f"{flow['pid']} {flow['exe']}")),
            line_of_field(("sent", byte_count(flow["bytes_out"]))),
            line_of_field(("received", byte_count(flow["bytes_in"]))),
            line_of_field(("opened", flow["opened"])),
            line_of_field(("closed", flow["closed"] or "it is open")),
            *(line_of_field((name, value)) for name, value in flow["attributes"].items()),
        ]
        for title, head in (("sent first", flow["head_out"]), ("received first", flow["head_in"])):
            lines += [line(), *_payload(title, head)]
        return lines


def _direction(flow: Any) -> str:
    local, remote = flow["local"] or "?", flow["remote"] or "nobody yet"
    name = f" ({flow['domain']})" if flow["domain"] and flow["domain"] not in remote else ""
    if flow["initiated"] is False:
        return f"{remote}{name} connected to {local}"
    return f"{local} to {remote}{name}"


def _payload(title: str, head: str | None) -> list[Line]:
    """The head of one side as text, then in hexadecimal."""
    if not head:
        why = "no longer remembered" if head is None else "nothing was captured"
        return [line((f"{title}: ", "bold"), why)]
    data = bytes.fromhex(head)
    text = data.decode("utf-8", "backslashreplace")
    return [
        line((f"{title}, {len(data)} bytes as text", "bold")),
        *(line(f"  {one}") for one in text.splitlines()),
        line((f"{title}, in hexadecimal", "bold")),
        *(line(one) for one in hex_lines(data)),
    ]


def hex_lines(data: bytes) -> list[str]:
    """Offset, bytes and printable ASCII, 16 bytes a line."""
    lines = []
    for offset in range(0, len(data), _HEX_BYTES):
        part = data[offset : offset + _HEX_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"  {offset:04x}  {part.hex(' '):<{3 * _HEX_BYTES}} {text}")
    return lines


def _row(key: str, flow: Any, context: Context) -> Row:
    style = "dim" if flow["closed"] else ""
    remote = flow["remote"] or (f"at {flow['local']}" if flow["local"] else "-")
    cells = (
        *(() if context.agent else ((flow["agent"], style),)),
        (flow["protocol"], style or "bold"),
        (f"{'from ' if flow['initiated'] is False else ''}{remote}", style),
        (flow["domain"] if flow["domain"] not in remote else "", style),
        (byte_count(flow["bytes_out"]), style),
        (byte_count(flow["bytes_in"]), style),
        (str(flow["pid"]), style),
        ("closed" if flow["closed"] else "open", style),
        (clock(flow["opened"]), style),
    )
    fields: dict[str, Any] = {
        "Agent": flow["agent"],
        "ProcessId": flow["pid"],
        "Protocol": flow["protocol"],
        "Transport": flow["transport"],
        "DestinationHostname": flow["domain"] or None,
        "Initiated": None if flow["initiated"] is None else words(flow["initiated"]).lower(),
        "BytesOut": flow["bytes_out"],
        "BytesIn": flow["bytes_in"],
        "Closed": words(bool(flow["closed"])).lower(),
    }
    for side, end in (("Source", flow["local"]), ("Destination", flow["remote"])):
        address, _, port = (end or "").rpartition(":")
        fields[f"{side}Ip"], fields[f"{side}Port"] = address.strip("[]") or None, port or None
    return Row(key, flow["agent"], cells, fields, flow)
