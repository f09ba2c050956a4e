"""The loop of `agentwatch run`, and where its alerts go. Loaded while the kernel verifies the probes."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import reaches
from agentwatch.respond.guard import Guard
from agentwatch.rules.levels import LEVELS
from agentwatch.session import AGENT, Session
from agentwatch.sinks.alerts import AlertFile, open_alert_file
from agentwatch.spawn import Child
from agentwatch.tui.live import PlainView, Prompt, Snapshot, State, View
from agentwatch.tui.snapshot import Snapshots

STEP_SECONDS = 0.01


class AlertSink:
    """Takes alerts: to the file, to standard output, and to whoever shows them."""

    def __init__(self, stack: ExitStack, path: Path | None, stream: BinaryIO | None) -> None:
        self.highest = -1
        self.paused: dict[str, Any] | None = None
        self.shown: Snapshots | None = None
        self.failed = ""
        self._files = [AlertFile(stream)] if stream is not None else []
        if path is not None:
            try:
                self._files.append(AlertFile(stack.enter_context(open_alert_file(path))))
            except OSError as error:
                raise Failure(f"the alert file cannot be written: {path}: {error.strerror}") from None

    def __call__(self, alert: dict[str, Any]) -> None:
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


class Runner:
    """The loop of a run: fold records, show them, answer pauses and signals, notice the end."""

    def __init__(
        self, session: Session, child: Child, guard: Guard, sink: AlertSink, on_pause: str, view: View
    ) -> None:
        self.session = session
        self.sink = sink
        self.left = False
        self.signal = 0
        self._child, self._guard, self._on_pause, self._view = child, guard, on_pause, view
        self._snapshots = Snapshots(session.options.name, session.options.mode, session.state)
        sink.shown = self._snapshots
        self._prompt: Prompt | None = None
        self._handled_pause = False

    @property
    def code(self) -> int:
        """The command's own exit code."""
        return self._child.wait()

    def watch(self) -> None:
        """Until the tree has ended or is left frozen."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            while self._step():
                pass
        finally:
            self._close_prompt()
            self.session.finish()
            self._view.close(self._snapshot("paused" if self.left else "ended"))
            if self.left:
                self._guard.dismiss()
                self.session.cgroup.leave()
        self._summarise()

    def _step(self) -> bool:
        self.session.step(STEP_SECONDS)
        self._snapshots.output.extend(self._child.output())
        if self._view.due():
            self._view.update(self._snapshot())
        self._child.reap()
        if self.signal:
            self.session.actuator.by_hand("kill", f"signal {self.signal}")
            return False
        if self.session.paused:
            return self._paused()
        self._handled_pause = False
        return self.session.cgroup.populated()

    def _snapshot(self, state: State | None = None) -> Snapshot:
        shown = state or self.session.state.agent(AGENT).state
        records = self.session.pipeline.counters.records
        return self._snapshots.make(shown, records, asking=self._prompt is not None)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signal = number

    def _paused(self) -> bool:
        """The agent is frozen: ask, or do what --on-pause says. False ends the watch."""
        if not self._handled_pause:
            self._handled_pause = True
            if self._on_pause == "wait":
                self._ask()
            else:
                return self._answer(self._on_pause)
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
            say(f"agent {self.session.options.name} is frozen and waits; SIGTERM to {os.getpid()} ends it")
        elif isinstance(self._view, PlainView):
            say("The agent is frozen:  r resume   k kill   l leave it frozen")

    def _answer(self, choice: str) -> bool:
        if choice == "leave":
            self.left = True
            return False
        who = os.environ.get("SUDO_USER") or getpass.getuser()
        self.session.actuator.by_hand(choice, who)
        return True

    def _close_prompt(self) -> None:
        if self._prompt is not None:
            self._prompt.close()
            self._prompt = None

    def _summarise(self) -> None:
        """What happened, in a few lines, and what to do next."""
        options = self.session.options
        counters = self.session.pipeline.counters
        say(f"{counters.records} records, {counters.alerts} alerts")
        if self.sink.paused is not None:
            alert = self.sink.paused
            took = alert["latency_us"] / 1000
            say(f"frozen {took:.2f} ms after the decisive byte: {alert['rule']['title']}")
        if self.sink.failed:
            say(f"the alert file is incomplete: {self.sink.failed}")
        if options.record is not None:
            say(f"trace: {options.record}")
            say(f"replay it with: agentwatch replay {options.record}")
        if self.left:
            path = self.session.cgroup.path
            say("the tree stays frozen")
            say(f"resume it with: echo 0 > {path}/cgroup.freeze")
            say(f"end it with:    echo 1 > {path}/cgroup.kill")


def say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"agentwatch: {text}\n")
        sys.stderr.flush()


def exit_code(runner: Runner, fail_on: str | None, strict: bool) -> int:
    if runner.signal:
        return 128 + runner.signal
    if runner.sink.highest >= 0 and reaches(LEVELS[runner.sink.highest], fail_on):
        return Exit.FINDINGS
    agent = runner.session.state.agent(AGENT)
    if strict and agent.lost:
        return Exit.LOST
    if runner.left:
        return Exit.FINDINGS
    return runner.code
