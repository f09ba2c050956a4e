"""The view of `agentwatch run`: what it is given, where it is shown, and the question it asks.

A view is fed with snapshots and never slows who feeds it. `LiveView` hands them to a process
of its own (`agentwatch.tui.frame`), which draws: neither the drawing nor the drawing library
costs the watching process its time, its interpreter lock or its memory. `PlainView` writes
lines where nothing can be drawn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TextIO, TypeVar

import msgpack  # type: ignore[import-untyped]

from agentwatch.tui.text import printable

FRAMES_PER_SECOND = 8
# What a snapshot carries to the drawing process: rows of a kind and characters of a string, more
# than a screen shows; if it does not fit one packet (net.core.wmem_default is 208 KiB), fewer rows.
_ROWS = (100, 30, 10)
_LONGEST = 256
_PACKET = 160 * 1024
_CLOSE_SECONDS = 2.0
_RESTORE = "\x1b[?1049l\x1b[?25h"  # leave the alternate screen, show the cursor

State = Literal["starting", "running", "blocked", "paused", "killed", "detached", "ended"]
Choice = Literal["resume", "kill", "leave"]
CHOICES: dict[str, Choice] = {"r": "resume", "k": "kill", "l": "leave"}
QUESTION = "Frozen:  r resume   k kill   l leave it frozen"


class ProcessRow(NamedTuple):
    """One process; rows come in tree order, parents before children.

    `depth` is 0 for the agent's root, `ended` how it ended (`exit 0`, `SIGKILL`) or empty
    while it runs, `marked` whether an alert concerns it, `gpu` what it uses of GPUs.
    """

    pid: int
    depth: int
    command: str
    ended: str = ""
    marked: bool = False
    gpu: str = ""


class FlowRow(NamedTuple):
    """One flow, oldest first: `remote` is `address:port` or a path, `sent` and `received` are bytes."""

    pid: int
    protocol: str
    remote: str
    sent: int
    received: int
    domain: str = ""
    ended: str = ""
    marked: bool = False


class AlertRow(NamedTuple):
    """One alert, oldest first.

    `time` is the wall clock as shown, in UTC, `subject` who did it to whom (`python3[12] to host:port`),
    `acted` what was done (`none`, `block`, `pause`, `kill`), `latency_us` from the decisive
    record to the act.
    """

    time: str
    level: str
    title: str
    subject: str
    acted: str = "none"
    latency_us: float | None = None
    complete: bool = True


class Snapshot(NamedTuple):
    """All that a view shows at one moment.

    `gaps` names coverage that is missing, `output` the last lines that the command wrote,
    `more_...` count rows that were left out (of alerts, the oldest); `asking` says that the
    question what to do with the frozen agent stands; `on_signal` what Ctrl-C does; `gpu` what
    the whole agent uses of GPUs.
    """

    agent: str
    mode: str
    state: State
    elapsed_s: float
    events: int = 0
    lost: int = 0
    gaps: tuple[str, ...] = ()
    processes: tuple[ProcessRow, ...] = ()
    flows: tuple[FlowRow, ...] = ()
    alerts: tuple[AlertRow, ...] = ()
    output: tuple[str, ...] = ()
    more_processes: int = 0
    more_flows: int = 0
    more_alerts: int = 0
    asking: bool = False
    on_signal: str = "ends the agent"
    gpu: str = ""

    def pack(self) -> bytes:
        """Encode for `unpack`, within one packet: strings cut, and of the rows those that matter most."""
        for rows in _ROWS:
            packed = bytes(msgpack.packb(self._bounded(rows), unicode_errors="surrogatepass"))
            if len(packed) <= _PACKET:
                break
        return packed

    def _bounded(self, rows: int) -> Snapshot:
        processes, flows = most_telling(self.processes, rows), most_telling(self.flows, rows)
        return self._replace(
            agent=self.agent[:_LONGEST],
            mode=self.mode[:_LONGEST],
            gaps=_cut(self.gaps[:rows]),
            processes=tuple(ProcessRow(*_cut(row)) for row in processes),
            flows=tuple(FlowRow(*_cut(row)) for row in flows),
            alerts=tuple(AlertRow(*_cut(row)) for row in self.alerts[-rows:]),
            output=_cut(self.output[-rows:]),
            more_processes=self.more_processes + len(self.processes) - len(processes),
            more_flows=self.more_flows + len(self.flows) - len(flows),
            more_alerts=self.more_alerts + len(self.alerts[:-rows]),
        )

    @staticmethod
    def unpack(data: bytes) -> Snapshot:
        """Decode what `pack` encoded."""
        snapshot = Snapshot(*msgpack.unpackb(data, use_list=False, unicode_errors="surrogatepass"))
        return snapshot._replace(
            processes=tuple(ProcessRow(*row) for row in snapshot.processes),
            flows=tuple(FlowRow(*row) for row in snapshot.flows),
            alerts=tuple(AlertRow(*row) for row in snapshot.alerts),
        )


Row = TypeVar("Row", ProcessRow, FlowRow)


def most_telling(rows: Sequence[Row], room: int) -> tuple[Row, ...]:
    """At most `room` of the rows, in their order: marked ones and their ancestors first, then
    those that have not ended, then of the ended ones the least deep, then the latest."""
    if len(rows) <= room:
        return tuple(rows)
    depths = [row.depth if isinstance(row, ProcessRow) else 0 for row in rows]
    rank = [(2, depth) if row.ended else (1, 0) for row, depth in zip(rows, depths, strict=True)]
    wanted = -1  # depth of the nearest ancestor still to be found, going upwards
    for index in range(len(rows) - 1, -1, -1):
        if rows[index].marked or depths[index] == wanted:
            rank[index] = (0, 0)
            wanted = depths[index] - 1
    best = sorted(range(len(rows)), key=lambda index: (rank[index], -index))[:room]
    return tuple(rows[index] for index in sorted(best))


def _cut(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value[:_LONGEST] if isinstance(value, str) else value for value in values)


class View(Protocol):
    """Where snapshots go."""

    def due(self) -> bool:
        """Would a snapshot be shown now? To be asked before going to the trouble of making one."""

    def update(self, snapshot: Snapshot) -> None:
        """Show `snapshot`, now or never. Neither waits nor raises."""

    def close(self, snapshot: Snapshot) -> None:
        """Show `snapshot` as the end state and give the terminal back."""


class LiveView:
    """Draws in a process of its own on the terminal behind `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        isolated = ["-I"] if sys.flags.isolated else []
        # Ctrl-C is for us: the drawing ends when we do. Blocked here, it is blocked there from the start.
        unmasked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *isolated, "-m", "agentwatch.tui.frame", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=stream.fileno(),
                pass_fds=[theirs.fileno()],
                # A size in the environment would be believed over the terminal's own, which changes.
                env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
            )
        signal.pthread_sigmask(signal.SIG_SETMASK, unmasked)
        self._channel.setblocking(False)

    def due(self) -> bool:
        """Has the time of one frame passed since the last one?"""
        return time.monotonic() >= self._next

    def update(self, snapshot: Snapshot) -> None:
        """Hand over `snapshot`; it is dropped while the drawing is behind."""
        self._next = time.monotonic() + 1 / FRAMES_PER_SECOND
        with contextlib.suppress(OSError):
            self._channel.send(snapshot.pack())

    def close(self, snapshot: Snapshot) -> None:
        """End the drawing with `snapshot`, which stays on the terminal."""
        self._channel.settimeout(_CLOSE_SECONDS)
        with contextlib.suppress(OSError):
            self._channel.send(snapshot.pack())
        self._channel.close()
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code != 0:
            self._stream.write(_RESTORE)
            self._stream.flush()


class PlainView:
    """Writes alerts, changes of state and losses as lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._alerts = 0
        self._state: State = "starting"
        self._partial: tuple[int, tuple[str, ...]] = (0, ())

    def due(self) -> bool:
        """Always: nothing here repeats itself."""
        return True

    def update(self, snapshot: Snapshot) -> None:
        """Write what is new in `snapshot`."""
        seen = max(0, self._alerts - snapshot.more_alerts)
        lines = [alert_line(alert) for alert in snapshot.alerts[seen:]]
        self._alerts = snapshot.more_alerts + len(snapshot.alerts)
        if snapshot.state != self._state:
            self._state = snapshot.state
            lines.append(f"agent {snapshot.agent}: {snapshot.state}")
        if (snapshot.lost, snapshot.gaps) != self._partial:
            self._partial = snapshot.lost, snapshot.gaps
            reason = partial_reason(snapshot)
            lines.append(f"evidence is partial: {reason}" if reason else "nothing is missing any more")
        with contextlib.suppress(OSError):
            for line in lines:
                self._stream.write(printable(line) + "\n")
            self._stream.flush()

    def close(self, snapshot: Snapshot) -> None:
        """Write what is new at the end."""
        self.update(snapshot)


def open_view(stream: TextIO) -> View:
    """The view that `stream` can carry: drawn on a terminal that moves its cursor, else lines."""
    drawable = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return LiveView(stream) if drawable else PlainView(stream)


def alert_line(alert: AlertRow) -> str:
    """An alert as one line of text, not yet made printable."""
    return f"{alert.time} {alert.level} {alert.title}: {act_words(alert)}: {alert.subject}"


def act_words(alert: AlertRow) -> str:
    """What was done about an alert, and how fast."""
    done = {"none": "alert only", "block": "blocked", "pause": "frozen", "kill": "killed"}
    words = done.get(alert.acted, alert.acted)
    if alert.latency_us is not None:
        words += f" in {alert.latency_us / 1000:.2f} ms"
    return words if alert.complete else f"{words}, partial evidence"


def partial_reason(snapshot: Snapshot) -> str:
    """Why the evidence is not complete; empty when it is."""
    lost = [f"{snapshot.lost:,} events lost"] if snapshot.lost else []
    return "; ".join([*lost, *snapshot.gaps])


class Prompt:
    """The question what to do with a frozen agent, answered by one key on the terminal.

    Keys are read from `device`, so standard input stays the command's, and without echo, so
    the view stays undisturbed. Never waits by itself: register `fileno()` with a poll and ask
    `answer()`. What was typed before the question is thrown away. Raises OSError where there
    is no terminal, or another process group owns it.
    """

    def __init__(self, device: str = "/dev/tty") -> None:
        self._fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                raise OSError("the terminal belongs to another process group")
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd, termios.TCSAFLUSH)
        except (OSError, termios.error) as error:
            os.close(self._fd)
            raise OSError(f"{device}: {error}") from error

    def __enter__(self) -> Prompt:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor that becomes readable when a key is hit."""
        return self._fd

    def answer(self) -> Choice | None:
        """The choice of the keys hit by now, None if none of them is one. EOFError: the terminal is gone."""
        try:
            keys = os.read(self._fd, 64)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError(str(error)) from error
        if not keys:
            raise EOFError("the terminal was closed")
        for key in keys.decode("ascii", "replace").lower():
            if key in CHOICES:
                return CHOICES[key]
        return None

    def close(self) -> None:
        """Give the terminal its settings back."""
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        os.close(self._fd)
