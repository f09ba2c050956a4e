"""The processes of agents, as trees."""

from __future__ import annotations

import signal
from typing import Any

from agentwatch.tui.text import gpu_share, gpu_words, short_program
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
)
from agentwatch.tui.tree import tree

_SHOWN = 500  # of an agent's processes
_DEEPEST = 12


class Processes(Screen):
    name = "processes"
    empty = "No process is known."
    fields = (
        "Agent", "ProcessId", "ParentProcessId", "User", "Image", "CommandLine", "Argv",
        "CurrentDirectory", "Ended",
    )  # fmt: skip

    def requests(self, context: Context) -> list[Question]:
        return [Question("ps", {"agent": context.agent, "limit": _SHOWN})]

    def columns(self, context: Context) -> tuple[Column, ...]:
        agent = () if context.agent else (Column("AGENT", 10, grow=1, rank=1),)
        gpu = (Column("GPU", 6, right=True),) if _use_gpus(context) else ()
        return (
            *agent,
            Column("PID", 7, right=True),
            Column("USER", 8, rank=2),
            Column("STARTED", 8, rank=3),
            Column("ENDED", 8),
            *gpu,
            Column("COMMAND (! an alert is about it)", 30, grow=8),
        )

    def rows(self, context: Context) -> Listing:
        found, uses_gpus = context.answers.get("ps", {}).get("processes", []), _use_gpus(context)
        return Listing(
            ((_key(process), (process, depth)) for process, depth in tree(found)),
            lambda key, item: _row(key, item[0], item[1], context, uses_gpus),
        )

    def remark(self, context: Context) -> str:
        more = context.answers.get("ps", {}).get("more", 0)
        return f"{more:,} more processes are not shown" if more else ""

    def summary(self, row: Row, context: Context) -> list[Line]:
        process = row.record
        return [
            line((" ".join(process["argv"]) or process["exe"], "bold")),
            line(
                f"{process['exe']} in {process['cwd']}, as {process['user']}, "
                f"since {clock(process['start_time'])} UTC"
            ),
            line(gpu_words(process["gpu"])),
            line("An alert is about it: 4 shows alerts" if process["alerted"] else ""),
        ]

    def page(self, row: Row, answer: Any) -> list[Line]:
        process = row.record
        return [
            line((f"process {process['pid']} of {process['agent']}", "bold")),
            line(),
            line_of_field(("program", process["exe"])),
            line_of_field(("folder", process["cwd"])),
            line_of_field(("user", process["user"])),
            line_of_field(("parent", process["parent"])),
            line_of_field(("started", process["start_time"])),
            line_of_field(("ended", ended_words(process["status"]) or "it runs")),
            line_of_field(("uses", gpu_words(process["gpu"]) or "no GPU")),
            line_of_field(("an alert is about it", "yes" if process["alerted"] else "no")),
            line(),
            line(("arguments, one a line", "bold")),
            *(line(f"{number:>4}  {word}") for number, word in enumerate(process["argv"])),
        ]


def ended_words(status: int | None) -> str:
    """How a process ended, from its wait status; empty while it runs."""
    if status is None:
        return ""
    if number := status & 0x7F:
        try:
            return signal.Signals(number).name
        except ValueError:
            return f"signal {number}"
    return f"exit {status >> 8 & 0xFF}"


def _use_gpus(context: Context) -> bool:
    return any(process["gpu"] for process in context.answers.get("ps", {}).get("processes", ()))


def _key(process: Any) -> str:
    return f"{process['agent']} {process['pid']} {process['start_time']}"


def _row(key: str, process: Any, depth: int, context: Context, uses_gpus: bool) -> Row:
    ended = ended_words(process["status"])
    style = "bold red" if process["alerted"] else "dim" if ended else ""
    program, *arguments = process["argv"] or [process["exe"] or "?"]
    command = " ".join((short_program(program), *arguments))
    indent = "  " * (min(depth, _DEEPEST) - 1) + "└ " if depth else ""
    cells = (
        *(() if context.agent else ((process["agent"], ""),)),
        (str(process["pid"]), style),
        (process["user"], style),
        (clock(process["start_time"]), style),
        (ended, style),
        *(((gpu_share(process["gpu"]), "bold"),) if uses_gpus else ()),
        (f"{'! ' if process['alerted'] else ''}{indent}{command}", style),
    )
    fields = {
        "Agent": process["agent"],
        "ProcessId": process["pid"],
        "ParentProcessId": process["parent"],
        "User": process["user"],
        "Image": process["exe"],
        "CommandLine": " ".join(process["argv"]),
        "Argv": process["argv"],
        "CurrentDirectory": process["cwd"],
        "Ended": ended or None,
    }
    return Row(key, process["agent"], cells, fields, process)
