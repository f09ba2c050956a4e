"""Alerts as JSON, one object a line, keys sorted: byte for byte the same live and in a replay."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.enrich.state import State
from agentwatch.respond.decide import Decision
from agentwatch.respond.outcome import Outcome

ANCESTORS = 32  # shown of a process


def timestamp(time: int, clock_offset: int) -> str:
    """RFC 3339 in UTC with nanoseconds, from ns since boot and the offset of the wall clock to it."""
    seconds, nanoseconds = divmod(time + clock_offset, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def endpoint(address: str, port: int) -> str | None:
    """`address:port`, IPv6 in brackets; None where nothing is known."""
    if not address and not port:
        return None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _process(state: State, process: Process, clock_offset: int) -> dict[str, Any]:
    ancestors = state.processes.ancestors(process)[:ANCESTORS]
    return {
        "pid": process.pid,
        "start_time": timestamp(process.start, clock_offset),
        "exe": process.exe,
        "cmdline": process.command_line,
        "argv": list(process.argv),
        "cwd": process.cwd,
        "user": state.user_name(process.uid),
        "ancestors": [{"pid": a.pid, "exe": a.exe, "cmdline": a.command_line} for a in ancestors],
    }


def _flow(flow: Flow | None) -> dict[str, Any] | None:
    if flow is None:
        return None
    return {
        "protocol": flow.application or flow.transport,
        "transport": flow.transport,
        "local": endpoint(flow.local, flow.local_port),
        "remote": endpoint(flow.remote, flow.remote_port),
        "domain": flow.domain or None,
        "initiated": flow.initiated,
    }


def _completeness(state: State, decision: Decision) -> dict[str, Any]:
    why = [f"{lost} {name} events lost" for name, lost in sorted(state.lost(decision.agent).items())]
    why += [f"{name} cut short" for name in sorted(decision.event.truncated)]
    return {"state": "partial" if why else "complete", "why": why}


def build(state: State, decision: Decision, outcome: Outcome | None, clock_offset: int) -> dict[str, Any]:
    """The alert of a decision; `outcome` is the actuator's record, None where nothing was done."""
    rule = decision.rule
    acted_at = outcome.acted if outcome is not None and outcome.done else 0
    return {
        "time": timestamp(decision.event.time, clock_offset),
        "rule": {"id": rule.id, "title": rule.title, "level": rule.level, "tags": list(rule.tags)},
        "verdict": "undecided" if decision.undecided else "match",
        "undecided": list(decision.undecided_rules),
        "agent": decision.agent.name,
        "response": decision.response,
        "acted": outcome.response if outcome is not None and outcome.done else "none",
        "error": outcome.error if outcome is not None and outcome.error else None,
        "mode": decision.agent.mode,
        "process": _process(state, decision.process, clock_offset),
        "flow": _flow(decision.flow),
        "evidence": list(decision.evidence),
        "markers": state.markers(decision.process),
        "completeness": _completeness(state, decision),
        "latency_us": (acted_at - decision.event.time) // 1000 if acted_at else None,
        "event": {
            name: value for name, value in decision.event.fields.items() if name not in _SHOWN_ELSEWHERE
        },
    }


_SHOWN_ELSEWHERE = frozenset(
    ("Image", "CommandLine", "Argv", "CurrentDirectory", "User", "ProcessId", "ParentProcessId",
     "ParentImage", "ParentCommandLine", "SourceIp", "SourcePort", "DestinationIp", "DestinationPort",
     "Initiated", "Markers")
)  # fmt: skip


def encode(alert: dict[str, Any]) -> str:
    """One line of ASCII: no byte of an agent's can act on a terminal that shows it."""
    return json.dumps(alert, sort_keys=True, ensure_ascii=True)


class AlertFile:
    """Writes alerts to a raw binary stream, each at once: a reader that follows sees it.

    `write` raises `OSError` for a disk that is full or fails. A line that was torn by it is ended
    before the next one begins, so that a reader loses that line alone.
    """

    def __init__(self, stream: BinaryIO, *, torn: bool = False) -> None:
        self._stream = stream
        self._torn = torn

    def write(self, alert: dict[str, Any]) -> None:
        """One line."""
        self.write_line(encode(alert).encode("ascii"))

    def write_line(self, line: bytes) -> None:
        """One line, encoded already, without its end."""
        rest = memoryview((b"\n" if self._torn else b"") + line + b"\n")
        self._torn = True
        while rest:
            rest = rest[self._stream.write(rest) or 0 :]
        self._stream.flush()
        self._torn = False


def open_alert_file(path: Path) -> FileIO:
    """Create or empty the file, for `AlertFile`. Raises `OSError`."""
    return FileIO(path, "w")
