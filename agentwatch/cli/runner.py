"""The loop of `run` and `attach`, whoever watches, and where alerts go."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import reaches
from agentwatch.cli.watching import Settings
from agentwatch.enrich.state import State as Seen
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.rules.levels import LEVELS
from agentwatch.sinks.alerts import AlertFile, open_alert_file
from agentwatch.tui.live import QUESTION, PlainView, Prompt, Snapshot, State, open_view
from agentwatch.tui.snapshot import Snapshots

STEP_SECONDS = 0.01


class AlertSink:
    """Takes alerts: to the file, to standard output, and to whoever shows them."""

    def __init__(self, settings: Settings) -> None:
        self.alerts = 0
        self.highest = -1
        self.paused: dict[str, Any] | None = None
        self.shown: Snapshots | None = None
        self.failed = ""
        self._files = [AlertFile(sys.stdout.buffer)] if settings.as_json else []
        self._stack = ExitStack()
        if (path := settings.alerts) is not None:
            try:
                self._files.append(AlertFile(self._stack.enter_context(open_alert_file(path))))
            except OSError as error:
                raise Failure(f"the alert file cannot be written: {path}: {error.strerror}") from None

    def __enter__(self) -> AlertSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __call__(self, alert: dict[str, Any]) -> None:
        self.alerts += 1
        self.highest = max(self.highest, LEVELS.index(alert["rule"]["level"]))
        if alert["acted"] == "pause":
            self.paused = alert
        if self.shown is not None:
            self.shown.add_alert(alert)
        for file in self._files:
            try:
                file.write(alert)
            except OSError as error:  # a full disk must not end the watch
                self.failed = error.strerror or str(error)


class Watcher(Protocol):
    """Who watches the agent: this process, or the daemon."""

    name: str
    mode: str
    cgroup: Cgroup
    seen: Seen
    """What a view shows of the agent."""

    def step(self, seconds: float) -> Iterable[str]:
        """Take what came, wait for it so many seconds; sentences for the user."""

    def state(self) -> State:
        """Running, paused or killed."""

    def by_hand(self, response: str, who: str) -> None:
        """Pause, resume or kill the agent."""

    def reload(self) -> None:
        """Look at the rules anew."""

    def finish(self) -> Iterable[str]:
        """Take everything that is left. The watch is over."""

    def records(self) -> int | None:
        """How many were folded, where that is known."""

    def lost(self) -> int:
        """Events of the agent that were lost."""

    def partial(self) -> bool:
        """Whether something that it did was not seen."""

    def way(self, response: str) -> str:
        """The command that resumes or kills the agent when this one has ended."""


class Subject(Protocol):
    """What differs between an agent that was started here and one that ran before."""

    on_signal: str
    """What SIGINT and SIGTERM do, for the user."""

    def output(self) -> list[str]:
        """Lines that it wrote since the last call, where they come to us."""

    def tend(self) -> None:
        """To be called now and then."""

    def stop(self, watcher: Watcher, number: int) -> None:
        """Do what is to be done when a signal ends the watch."""

    def leave(self) -> None:
        """It stays frozen without a watch, and nothing of ours may end it."""

    def code(self, number: int) -> int:
        """The exit code after a watch that the signal `number` ended, or that ended by itself (0)."""


class Runner:
    """The loop of a watch: fold records, show them, answer pauses and signals, notice the end."""

    def __init__(self, settings: Settings, watcher: Watcher, sink: AlertSink, subject: Subject) -> None:
        self.left = False
        self.signal = 0
        self._settings, self._watcher, self._sink, self._subject = settings, watcher, sink, subject
        self._notices: list[str] = []
        self._prompt: Prompt | None = None
        self._handled_pause = False
        self._view = open_view(sys.stderr) if settings.live else PlainView(sys.stderr)
        self._snapshots = Snapshots(watcher.name, watcher.mode, watcher.seen, subject.on_signal)
        sink.shown = self._snapshots
        self._terminal = _has_terminal()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def watch(self) -> None:
        """Until the tree has ended, is left frozen, or a signal came."""
        try:
            while self._step():
                pass
        finally:
            self._close_prompt()
            notices = self._watcher.finish()
            goes_on = self._watcher.cgroup.populated()
            self.left = self._paused() and goes_on
            self._view.close(self._snapshot("paused" if self.left else "detached" if goes_on else "ended"))
            if self.left:
                self._subject.leave()
        self._notices += notices
        self._summarise()

    def _step(self) -> bool:
        for notice in self._watcher.step(STEP_SECONDS):
            self.tell(notice)
        self._snapshots.output.extend(self._subject.output())
        if self._view.due():
            self._view.update(self._snapshot())
        self._subject.tend()
        if self.signal:
            self._subject.stop(self._watcher, self.signal)
            return False
        if self._paused():
            return self._answer_pause()
        self._handled_pause = False
        return self._watcher.cgroup.populated()

    def tell(self, text: str) -> None:
        """At once where lines are written; where a screen is drawn among the output, and again at the end."""
        if isinstance(self._view, PlainView):
            say(text)
        else:
            self._snapshots.output.append(f"agentwatch: {text}")
            self._notices.append(text)

    def _snapshot(self, state: State | None = None) -> Snapshot:
        shown, records = state or self._watcher.state(), self._watcher.records() or 0
        return self._snapshots.make(shown, records, asking=self._prompt is not None)

    def _on_signal(self, number: int, frame: object) -> None:
        if number != signal.SIGHUP or (self._terminal and not _has_terminal()):
            self.signal = number
        else:
            self._watcher.reload()

    def _paused(self) -> bool:
        return self._watcher.state() == "paused"

    def _answer_pause(self) -> bool:
        """The agent is frozen: ask, or do what --on-pause says. False ends the watch."""
        if not self._handled_pause:
            self._handled_pause = True
            if self._settings.on_pause == "wait":
                self._ask()
            else:
                return self._answer(self._settings.on_pause)
        if self._prompt is not None:
            try:
                choice = self._prompt.answer()
            except EOFError:
                self._close_prompt()
                return True
            if choice is not None:
                self._close_prompt()
                return self._answer(choice)
        return True

    def _ask(self) -> None:
        with contextlib.suppress(OSError):
            self._prompt = Prompt()
        if self._prompt is None:
            name, on_signal = self._watcher.name, self._subject.on_signal
            self.tell(f"agent {name} is frozen and waits; SIGTERM to {os.getpid()} {on_signal}")
        elif isinstance(self._view, PlainView):
            say(QUESTION)

    def _answer(self, choice: str) -> bool:
        if choice == "leave":
            return False
        who = os.environ.get("SUDO_USER") or getpass.getuser()
        self._watcher.by_hand(choice, who)
        return True

    def _close_prompt(self) -> None:
        if self._prompt is not None:
            self._prompt.close()
            self._prompt = None

    def _summarise(self) -> None:
        """What happened, in a few lines, and what to do next."""
        for notice in self._notices:
            say(notice)
        records, lost = self._watcher.records(), self._watcher.lost()
        counted = [] if records is None else [f"{records} records"]
        counted += [f"{self._sink.alerts} alerts"] + [f"{lost} events lost"] * bool(lost)
        say(", ".join(counted))
        if self._sink.paused is not None:
            alert = self._sink.paused
            took = alert["latency_us"] / 1000
            say(f"frozen {took:.2f} ms after the decisive byte: {alert['rule']['title']}")
        if self._sink.failed:
            say(f"the alert file is incomplete: {self._sink.failed}")
        if (trace := self._settings.record) is not None:
            say(f"trace: {trace}")
            say(f"replay it with: {_program()} replay {trace}")
        if self.left:
            say("the tree stays frozen")
            say(f"resume it with: {self._watcher.way('resume')}")
            say(f"end it with:    {self._watcher.way('kill')}")

    def exit_code(self) -> int:
        """The contract's exit code; the subject's own where it has none to add."""
        settings = self._settings
        if self.signal and (code := self._subject.code(self.signal)):
            return code
        if self._sink.highest >= 0 and reaches(LEVELS[self._sink.highest], settings.fail_on):
            return Exit.FINDINGS
        if settings.strict and self._watcher.partial():
            return Exit.LOST
        return Exit.FINDINGS if self.left else self._subject.code(self.signal)


def _has_terminal() -> bool:
    """Whether there is a controlling terminal: a SIGHUP after which there is none any more came from it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _program() -> str:
    """How this program can be called from here."""
    beside = Path(sys.executable).with_name("agentwatch")
    if shutil.which("agentwatch") is not None:
        return "agentwatch"
    return str(beside) if beside.exists() else f"{sys.executable} -m agentwatch"


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"agentwatch: {text}\n")
        sys.stderr.flush()
