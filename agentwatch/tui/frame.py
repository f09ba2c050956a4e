"""Draws the snapshots of a run (`agentwatch.tui.live`), in a process of its own.

`python -m agentwatch.tui.frame FD`: packed snapshots come in over the socket FD, frames go
out on standard output, on the alternate screen; when the socket closes, the last one stays
on the ordinary screen. What an agent wrote is made printable before it is drawn.
"""

from __future__ import annotations

import io
import select
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from agentwatch.tui.live import (
    FRAMES_PER_SECOND,
    QUESTION,
    AlertRow,
    FlowRow,
    ProcessRow,
    Row,
    Snapshot,
    act_words,
    most_telling,
    partial_reason,
)
from agentwatch.tui.text import byte_count, printable

_WIDE = 120
_DEEPEST = 12
_PACKET = 1 << 20
_LOOK_SECONDS = 0.25
_SUMMARY = 7
_LEAST = 2
_STATES = {
    "running": "bold green",
    "blocked": "bold black on yellow",
    "paused": "bold black on yellow",
    "killed": "bold white on red",
}
_LEVELS = {"critical": "bold red", "high": "bold red", "medium": "bold yellow", "low": "cyan"}


class Section(NamedTuple):
    """A titled part of the screen: how many lines it would like, how many it gets before others
    may take what it leaves, and how it draws itself into so many."""

    title: str
    wish: int
    share: int
    draw: Callable[[int], list[Text]]


def frame(snapshot: Snapshot, width: int, height: int, *, final: bool = False) -> Group:
    """The screen of `snapshot`: `height` lines of at most `width` cells, the last one saying what
    the user can do; the `final` one is what remains when nothing can be done: no longer than needed."""
    snapshot = _harmless(snapshot)
    top = [_header(snapshot)]
    if reason := partial_reason(snapshot):
        top.append(Text(f"Evidence is partial: {reason}", "bold yellow"))
    room = height - len(top) - (0 if final else 1)
    alerts, processes, flows, output = (
        _alerts(snapshot),
        _processes(snapshot),
        _flows(snapshot),
        _output(snapshot),
    )
    if width >= _WIDE:
        half = width // 2 - 1
        left = _stack([processes, output], half, room)
        body = _beside(left, _stack([alerts, flows], width - half - 2, room), half)
    else:
        body = _stack([alerts, processes, flows, output], width, room)
    if not final:
        body += [Text() for _ in range(room - len(body))]
        body.append(_footer(snapshot))
    lines = [*top, *body][:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Group(*lines)


def _harmless(value: Any) -> Any:
    """`value`, a tuple of tuples, with every string in it made printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, tuple):
        parts = [_harmless(part) for part in value]
        return value._make(parts) if hasattr(value, "_make") else tuple(parts)
    return value


def _header(snapshot: Snapshot) -> Text:
    minutes, seconds = divmod(int(snapshot.elapsed_s), 60)
    return Text.assemble(
        (" agentwatch ", "bold reverse"),
        " ",
        (snapshot.agent, "bold"),
        "  ",
        (f" {snapshot.state.upper()} ", _STATES.get(snapshot.state, "bold")),
        f"  {snapshot.mode}  {minutes:02d}:{seconds:02d}  ",
        (f"{snapshot.lost:,} lost", "bold yellow" if snapshot.lost else ""),
        f"  {snapshot.events:,} events",
        (f"  {snapshot.gpu}" if snapshot.gpu else "", "bold"),
    )


def _footer(snapshot: Snapshot) -> Text:
    if snapshot.asking:
        return Text.assemble((f" {QUESTION} ", "bold reverse"), (f"   Ctrl-C {snapshot.on_signal}", "dim"))
    return Text(f" Ctrl-C {snapshot.on_signal}", "dim")


def _alerts(snapshot: Snapshot) -> Section:
    newest = snapshot.alerts[::-1]

    def draw(room: int) -> list[Text]:
        lines = [line for alert in newest[: room // 2 + 1] for line in _alert(alert)]
        return lines[:room]

    count = snapshot.more_alerts + len(newest)
    return Section(f"alerts: {count or 'none'}", 2 * len(newest), 4, draw)


def _alert(alert: AlertRow) -> list[Text]:
    what = Text.assemble(
        f"{alert.time} ",
        (f"{alert.level} ", _LEVELS.get(alert.level, "")),
        (alert.title, "bold"),
    )
    return [what, Text(f"  {act_words(alert)}: {alert.subject}")]


def _processes(snapshot: Snapshot) -> Section:
    rows = snapshot.processes
    running = sum(not row.ended for row in rows)
    return _rows(f"processes: {running} running", rows, snapshot.more_processes, 7, _process)


def _process(row: ProcessRow) -> Text:
    indent = "  " * (min(row.depth, _DEEPEST) - 1) + "└ " if row.depth else ""
    ended = f"[{row.ended}] " if row.ended else ""
    gpu = f"[{row.gpu}] " if row.gpu else ""
    return Text(f"{_mark(row)}{row.pid:>8} {indent}{ended}{gpu}{row.command}", _style(row))


def _flows(snapshot: Snapshot) -> Section:
    rows = snapshot.flows
    is_open = sum(not row.ended for row in rows)
    return _rows(f"flows: {is_open} open", rows, snapshot.more_flows, 4, _flow)


def _flow(row: FlowRow) -> Text:
    ended = f"[{row.ended}] " if row.ended else ""
    traffic = f"{byte_count(row.sent):>6} sent {byte_count(row.received):>6} received"
    where = f"{row.remote} {row.domain}".rstrip()
    return Text(f"{_mark(row)}{row.pid:>8} {row.protocol:<10} {traffic}  {ended}{where}", _style(row))


def _mark(row: ProcessRow | FlowRow) -> str:
    return "!" if row.marked else " "


def _style(row: ProcessRow | FlowRow) -> str:
    if row.marked:
        return "bold red"
    return "dim" if row.ended else ""


def _rows(
    title: str, rows: tuple[Row, ...], more: int, share: int, draw_row: Callable[[Row], Text]
) -> Section:
    def draw(room: int) -> list[Text]:
        shown = rows if len(rows) + bool(more) <= room else most_telling(rows, max(0, room - 1))
        lines = [draw_row(row) for row in shown]
        if hidden := len(rows) - len(shown) + more:
            lines.append(Text(f"         and {hidden} more", "dim"))
        return lines[:room]

    return Section(title, len(rows) + bool(more), share, draw)


def _output(snapshot: Snapshot) -> Section:
    def draw(room: int) -> list[Text]:
        return [Text(line) for line in snapshot.output[-room:]] if room else []

    return Section("output", len(snapshot.output), 3, draw)


def _stack(sections: Sequence[Section], width: int, height: int) -> list[Text]:
    """The sections under one another in at most `height` lines: a little for each, then the share
    of each, then what it wishes, and who comes first is served first."""
    free = max(0, height - len(sections))
    rooms = [0] * len(sections)
    for limit in (lambda section: _LEAST, lambda section: section.share, lambda section: section.wish):
        for index, section in enumerate(sections):
            more = max(0, min(section.wish, limit(section), rooms[index] + free) - rooms[index])
            rooms[index] += more
            free -= more
    lines = []
    for section, room in zip(sections, rooms, strict=True):
        lines += [_title(section.title, width), *section.draw(room)]
    return lines[: max(0, height)]


def _title(title: str, width: int) -> Text:
    return Text(f"── {title} ".ljust(width, "─"), "cyan")


def _beside(left: list[Text], right: list[Text], width: int) -> list[Text]:
    """Two columns, the left one `width` cells wide."""
    lines = []
    for index in range(max(len(left), len(right))):
        line = left[index] if index < len(left) else Text()
        line.truncate(width, overflow="ellipsis", pad=True)
        lines.append(Text.assemble(line, "  ", right[index]) if index < len(right) else line)
    return lines


def _receive(channel: socket.socket, wait: float) -> tuple[Snapshot | None, bool]:
    """The newest snapshot that comes within `wait` seconds (None: none came), and whether the
    sender is gone."""
    newest = None
    while select.select([channel], [], [], 0 if newest else wait)[0]:
        data = channel.recv(_PACKET)
        if not data:
            return newest, True
        newest = Snapshot.unpack(data)
    return newest, False


def _draw_until_closed(channel: socket.socket, console: Console) -> Snapshot | None:
    """Draw on the alternate screen until the sender is gone; return the last snapshot."""
    snapshot, gone = None, False
    size = console.size
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not gone:
            newest, gone = _receive(channel, _LOOK_SECONDS)
            resized, size = size != console.size, console.size
            snapshot = newest or snapshot
            if snapshot and (newest or resized):
                live.update(frame(snapshot, size.width, size.height), refresh=True)
                time.sleep(1 / FRAMES_PER_SECOND)
    return snapshot


def main(descriptor: int) -> None:
    """Draw what comes over the socket `descriptor` on standard output until it closes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False, markup=False, emoji=False)
    with socket.socket(fileno=descriptor) as channel:
        last = _draw_until_closed(channel, console)
    if last:
        # With room for the few lines of the summary that follow.
        console.print(frame(last, console.width, console.height - _SUMMARY, final=True))


if __name__ == "__main__":
    main(int(sys.argv[1]))
