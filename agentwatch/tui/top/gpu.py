"""GPUs: how busy they are, and with whose work."""

from __future__ import annotations

from typing import Any

from agentwatch.tui.top.model import (
    Column,
    Context,
    Line,
    Listing,
    Question,
    Row,
    Screen,
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
            rows.append(_gpu(gpu))
            rows += [
                _use(use)
                for use in answer["uses"]
                if use["uuid"] == gpu["uuid"] and context.agent in (None, use["agent"])
            ]
        return Listing((row.key, row) for row in rows)

    def summary(self, row: Row, context: Context) -> list[Line]:
        record = row.record
        if row.agent:
            return [line((record["exe"], "bold"), f", process {record['pid']} of {record['agent']}")]
        users = many(record["processes"], "process")
        gone = f"GONE: {record['gone']}" if record["gone"] else f"used by {users}"
        return [line((record["name"], "bold"), f" {record['uuid']}"), line(gone)]


def _gpu(gpu: Any) -> Row:
    power, heat = gpu["milliwatts"], gpu["celsius"]
    cells = (
        (gpu["label"], "bold"),
        ("", ""),
        (f"GONE: {gpu['gone']}" if gpu["gone"] else gpu["name"], "bold red" if gpu["gone"] else "bold"),
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
    return Row(gpu["uuid"], "", cells, fields, gpu)


def _use(use: Any) -> Row:
    cells = (
        ("└", ""),
        (use["agent"], ""),
        (f"{file_name(use['exe'])}[{use['pid']}]", ""),
        (percent(use["percent"]), ""),
        (size(use["memory"]), ""),
        ("", ""),
        ("", ""),
        ("", ""),
        (f"{use['busy_ms'] / 1000:,.1f} s", ""),
    )
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
