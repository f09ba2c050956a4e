"""GPUs: how busy they are, and with whose work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentwatch.tui.top.model import (
    Column,
    Context,
    Line,
    Listing,
    Question,
    Row,
    Screen,
    Span,
    file_name,
    line,
    many,
    percent,
    size,
)


class Gpus(Screen):
    name = "gpu"
    empty = "No GPU is seen: there is none, or NVML is not installed (agentwatch doctor says)."
    fields = ("Agent", "Device", "Uuid", "Image", "ProcessId", "SmPercent", "MemoryBytes", "Gone")

    def requests(self, context: Context) -> list[Question]:
        return [Question("gpus", {})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        return (
            Column("GPU", 6),
            Column("AGENT", 10, grow=1),
            Column("WHAT", 16, grow=3),
            Column("BUSY", 5, right=True),
            Column("MEMORY", 7, right=True),
            Column("OF", 7, right=True),
            Column("POWER", 6, rank=1, right=True),
            Column("HEAT", 5, rank=2, right=True),
            Column("GPU TIME", 9, rank=3, right=True),
        )

    def rows(self, context: Context) -> Listing:
        answer = context.answers.get("gpus", {})
        rows: list[Row] = []
        for gpu in answer.get("gpus", ()):
            of_gpu = [use for use in answer["uses"] if use["uuid"] == gpu["uuid"]]
            rows.append(_gpu(gpu, len(of_gpu)))
            for agent in sorted({use["agent"] for use in of_gpu}):
                if context.agent in (None, agent):
                    uses = [use for use in of_gpu if use["agent"] == agent]
                    rows += [_agent(agent, uses), *map(_use, uses)]
        return Listing((row.key, row) for row in rows)

    def summary(self, row: Row, context: Context) -> list[Line]:
        record = row.record
        if not row.agent:
            return _about(record)
        time = f"{record['busy_ms'] / 1000:,.1f} s of GPU time since it was first seen on it"
        if "pid" not in record:
            return [line((row.agent, "bold"), f": {many(record['processes'], 'process')}, {time}")]
        return [
            line((record["exe"], "bold"), f", process {record['pid']} of {row.agent}"),
            line(f"{time}; enter tells all"),
        ]


def _about(gpu: Any) -> list[Line]:
    """A GPU or an instance, in words."""
    lines = [line((gpu["name"], "bold"), f" {gpu['uuid']}")]
    if gpu["gone"]:
        return [*lines, line((f"GONE: {gpu['gone']}. Agents that used it may have lost work.", "bold red"))]
    others = gpu["processes"] - gpu["known"]
    whose = f", {others} of them of no agent" if others > 0 else ""
    lines.append(line(f"used by {many(gpu['processes'], 'process')}{whose}"))
    if gpu["percent"] is None:
        lines.append(line("The driver does not tell how busy it is (of MIG instances none does): see MEMORY"))
    return lines


def _short(name: str) -> str:
    """A GPU's name; of an instance its profile: what it is cut from stands above it."""
    whole, mig, profile = name.partition(" MIG ")
    return f"MIG {profile}" if mig else whole.removeprefix("NVIDIA ")


def _gpu(gpu: Any, known: int) -> Row:
    power, heat = gpu["milliwatts"], gpu["celsius"]
    cells = (
        (gpu["label"], "bold"),
        ("", ""),
        (
            f"GONE: {gpu['gone']}" if gpu["gone"] else _short(gpu["name"]),
            "bold red" if gpu["gone"] else "bold",
        ),
        (percent(gpu["percent"]), "bold"),
        (size(gpu["memory"]), ""),
        (size(gpu["memory_total"]), ""),
        ("-" if power is None else f"{power / 1000:.0f} W", ""),
        ("-" if heat is None else f"{heat} °C", ""),
        ("", ""),
    )
    fields = {
        "Device": gpu["label"],
        "Uuid": gpu["uuid"],
        "SmPercent": gpu["percent"],
        "MemoryBytes": gpu["memory"],
        "Gone": gpu["gone"] or None,
    }
    return Row(gpu["uuid"], "", cells, fields, {**gpu, "known": known})


def _agent(agent: str, uses: Sequence[Any]) -> Row:
    """All that an agent makes of a GPU."""
    shares = [use["percent"] for use in uses if use["percent"] is not None]
    whole = {
        "processes": len(uses),
        "percent": sum(shares) if shares else None,
        "memory": sum(use["memory"] for use in uses),
        "busy_ms": sum(use["busy_ms"] for use in uses),
    }
    fields = {
        "Agent": agent,
        "Device": uses[0]["gpu"],
        "Uuid": uses[0]["uuid"],
        "SmPercent": whole["percent"],
        "MemoryBytes": whole["memory"],
    }
    cells = _cells("└", agent, many(len(uses), "process"), whole)
    return Row(f"{uses[0]['uuid']} agent {agent}", agent, cells, fields, whole)


def _cells(mark: str, agent: str, what: str, use: Any) -> tuple[Span, ...]:
    nothing = ("", "")
    return (
        (mark, ""),
        (agent, ""),
        (what, ""),
        (percent(use["percent"]), ""),
        (size(use["memory"]), ""),
        *(nothing, nothing, nothing),
        ("-" if use["percent"] is None and not use["busy_ms"] else f"{use['busy_ms'] / 1000:,.1f} s", ""),
    )


def _use(use: Any) -> Row:
    cells = _cells("  └", "", f"{file_name(use['exe'])}[{use['pid']}]", use)
    fields = {
        "Agent": use["agent"],
        "Device": use["gpu"],
        "Uuid": use["uuid"],
        "Image": use["exe"],
        "ProcessId": use["pid"],
        "SmPercent": use["percent"],
        "MemoryBytes": use["memory"],
    }
    return Row(f"{use['uuid']} {use['pid']}", use["agent"], cells, fields, use)
