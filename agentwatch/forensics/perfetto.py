"""The process tree as a trace for Perfetto and Chrome (the JSON of the Trace Event Format).

A process is a track, each program that it ran a slice; an arrow leads from who forked to what was
forked; flows are asynchronous slices of their process, alerts and findings are instants.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from agentwatch.forensics.story import Life, Link, Listener, Story, wall_of
from agentwatch.sinks.alerts import endpoint
from agentwatch.tui.text import printable


class TraceEvents(Listener):
    """Writes a story's events between `opening` and `closing`. `first`: no event came before.

    Track numbers count from `base`, so that several recordings fit in one file.
    """

    opening, closing = b'{"displayTimeUnit":"ns","traceEvents":[\n', b"\n]}\n"

    def __init__(self, write: Callable[[bytes], object], base: int = 0, first: bool = True) -> None:
        self._write, self._base, self.first = write, base, first
        self.tracks = base

    def begin(self, story: Story) -> None:
        self._story = story

    def process(self, life: Life) -> None:
        track, process = self._track(life), life.process
        name = f"{process.exe.rpartition('/')[2] or '?'} [{process.pid}] {life.agent}"
        self._meta(track, "process_name", {"name": printable(name, 80)})
        self._meta(track, "process_sort_index", {"sort_index": life.number})
        self._meta(track, "thread_name", {"name": str(process.pid)})
        begin = life.began or (life.programs[0].time if life.programs else process.start)
        end = process.ended or max(begin, self._story.last)
        self._put("X", "process", "process", begin, track, dur=_lasts(begin, end), args=_ended(life))
        if life.parent is not None and life.began:
            arrow = {"id": track, "cat": "fork", "name": "fork"}
            self._event({**arrow, "ph": "s", "ts": _micro(begin), **self._where(self._track(life.parent))})
            self._event({**arrow, "ph": "f", "bp": "e", "ts": _micro(begin), **self._where(track)})
        untils = (*(one.time for one in life.programs[1:]), end)
        for program, until in zip(life.programs, untils, strict=False):  # of a mere fork there is none
            args = {"exe": program.exe, "argv": list(program.argv), "cwd": program.cwd, "record": program.seq}
            name = program.exe.rpartition("/")[2] or "?"
            duration = _lasts(program.time, until)
            self._put("X", name, "program", program.time, track, dur=duration, args=args)
        for finding in life.findings:
            self._put("i", finding.text, "finding", finding.time, track, s="t", args={"record": finding.seq})

    def link(self, link: Link) -> None:
        flow, track = link.flow, self._track(link.owner)
        remote = endpoint(flow.remote, flow.remote_port) or endpoint(flow.local, flow.local_port) or "?"
        name = f"{flow.application or flow.transport} {remote}"
        args = {
            "local": endpoint(flow.local, flow.local_port), "remote": endpoint(flow.remote, flow.remote_port),
            "hostname": flow.domain, "bytes_out": flow.bytes_out, "bytes_in": flow.bytes_in,
            "behaviours": list(link.behaviours),
        }  # fmt: skip
        number = f"{self._base}.{link.number}"
        end = flow.closed or max(self._story.last, flow.opened)
        self._put("b", name, "flow", flow.opened, track, id=number, args=args)
        self._put("e", name, "flow", end, track, id=number)

    def alert(self, number: int, alert: dict[str, Any], life: Life | None, link: Link | None) -> None:
        offset = self._story.header.clock_offset if self._story.header else 0
        time = wall_of(alert["time"]) - offset
        args = {name: alert[name] for name in ("response", "acted", "evidence", "completeness")}
        title = f"alert {number}: {alert['rule']['title']}"
        self._put("i", title, "alert", time, self._track(life) if life else self._base, s="p", args=args)

    def _track(self, life: Life) -> int:
        track = self._base + life.number
        self.tracks = max(self.tracks, track)
        return track

    def _put(self, phase: str, name: str, category: str, time: int, track: int, **more: Any) -> None:
        event = {"ph": phase, "name": printable(name, 200), "cat": category, "ts": _micro(time)}
        self._event({**event, **self._where(track), **more})

    def _meta(self, track: int, name: str, args: dict[str, Any]) -> None:
        self._event({"ph": "M", "name": name, **self._where(track), "args": args})

    @staticmethod
    def _where(track: int) -> dict[str, int]:
        return {"pid": track, "tid": track}

    def _event(self, event: dict[str, Any]) -> None:
        line = json.dumps(_shown(event), separators=(",", ":")).encode("ascii")
        self._write(line if self.first else b",\n" + line)
        self.first = False


def _micro(time: int) -> float:
    """Microseconds with the nanoseconds as decimals, never below: readers cut off what is less than one."""
    value = time / 1000
    return value if int(value * 1000) >= time else math.nextafter(value, math.inf)


def _lasts(begin: int, end: int) -> float:
    """How long, between the moments as readers see them: a nanosecond too long and slices do not nest."""
    seen = (int(_micro(time) * 1000) for time in (begin, end))
    return _micro(max(0, -next(seen) + next(seen)))


def _ended(life: Life) -> dict[str, Any]:
    process = life.process
    return {"pid": process.pid, "agent": life.agent, "status": process.status, "programs": life.programs_run}


def _shown(value: Any) -> Any:
    """Whatever an agent wrote, without what acts on a page that shows it."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {name: _shown(one) for name, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, (list, tuple)) else value
