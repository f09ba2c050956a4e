"""The loop of `run` and `attach`, and where alerts go. Loaded once the probes are attached."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import reaches, rule_set
from agentwatch.cli.watching import Settings
from agentwatch.resources import RULES
from agentwatch.respond.enforce import Enforcer
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.rules.watch import RuleWatcher
from agentwatch.session import Session
from agentwatch.sinks.alerts import AlertFile, open_alert_file
from agentwatch.tui.live import QUESTION, PlainView, Prompt, Snapshot, State, open_view
from agentwatch.tui.snapshot import Snapshots
from agentwatch.watch import AGENT, Watch

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


class Subject(Protocol):
    """What differs between an agent that was started here and one that ran before."""

    on_signal: str
    """What SIGINT and SIGTERM do, for the user."""

    def output(self) -> list[str]:
        """Lines that it wrote since the last call, where they come to us."""

    def tend(self) -> None:
        """To be called now and then."""

    def stop(self, enforcer: Enforcer, number: int) -> None:
        """Do what is to be done when a signal ends the watch."""

    def leave(self) -> None:
        """It stays frozen without a watch, and nothing of ours may end it."""

    def code(self, number: int) -> int:
        """The exit code after a watch that the signal `number` ended, or that ended by itself (0)."""


class Runner:
    """The loop of a watch: fold records, show them, answer pauses and signals, notice the end."""

    def __init__(
        self,
        settings: Settings,
        watch: Watch,
        subject: Subject,
    ) -> None:
        self.left = False
        self.signal = 0
        self._settings, self._subject = settings, subject
        self._agent = watch.agents[AGENT]
        self._notices: list[str] = []
        self._prompt: Prompt | None = None
        self._handled_pause = False
        rules = rule_set(settings.rule_paths, settings.exceptions)
        with ExitStack() as stack:
            self.sink = AlertSink(stack, settings.alerts, sys.stdout.buffer if settings.as_json else None)
            session = Session(
                watch,
                rules,
                [self.sink],
                record=settings.record,
                signer=settings.signer(),
                training=settings.training,
            )
            self.session = stack.enter_context(session)
            self.session.mark(AGENT, settings.markers, "environment")
            watched = [*(settings.rule_paths or [RULES]), *settings.exceptions]
            self._watcher = stack.enter_context(RuleWatcher(watched, self._load, rules))
            self._view = open_view(sys.stderr) if settings.live else PlainView(sys.stderr)
            self._stack = stack.pop_all()
        self._snapshots = Snapshots(
            self._agent.options.name, settings.mode, self.session.state, subject.on_signal
        )
        self.sink.shown = self._snapshots
        self._terminal = _has_terminal()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        if self._agent.options.running and self._agent.cgroup.frozen():
            path = self._agent.cgroup.path
            self.tell(f"the agent is frozen already; resume it with: echo 0 > {path}/cgroup.freeze")

    def _load(self) -> RuleSet:
        return load_rules(self._settings.rule_paths or [RULES], exceptions=self._settings.exceptions)

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def watch(self) -> None:
        """Until the tree has ended, is left frozen, or a signal came."""
        try:
            while self._step():
                pass
        finally:
            self._close_prompt()
            self.session.finish()
            goes_on = self._agent.cgroup.populated()
            self.left = self._paused() and goes_on
            self._view.close(self._snapshot("paused" if self.left else "detached" if goes_on else "ended"))
            if self.left:
                self._subject.leave()
        self._summarise()

    def _step(self) -> bool:
        self.session.step(STEP_SECONDS)
        self._reload()
        self._snapshots.output.extend(self._subject.output())
        if self._view.due():
            self._view.update(self._snapshot())
        self._subject.tend()
        if self.signal:
            self._subject.stop(self.session.enforcer, self.signal)
            return False
        if self._paused():
            return self._answer_pause()
        self._handled_pause = False
        return self._agent.cgroup.populated()

    def _reload(self) -> None:
        """Rules changed: those that are good come into force, those that are not are told."""
        outcome = self._watcher.poll()
        if outcome is None:
            return
        if outcome.rules is not None:
            self.session.use_rules(outcome.rules)
            self.tell(f"rules reloaded: {len(outcome.rules.rules)} are in force")
        for problem in outcome.problems:
            self.tell(f"the rules before stay in force: {problem}")

    def tell(self, text: str) -> None:
        """At once where lines are written; where a screen is drawn among the output, and again at the end."""
        if isinstance(self._view, PlainView):
            say(text)
        else:
            self._snapshots.output.append(f"agentwatch: {text}")
            self._notices.append(text)

    def _snapshot(self, state: State | None = None) -> Snapshot:
        shown = state or self.session.state.agent(AGENT).state
        records = self.session.pipeline.counters.records
        return self._snapshots.make(shown, records, asking=self._prompt is not None)

    def _on_signal(self, number: int, frame: object) -> None:
        if number != signal.SIGHUP or (self._terminal and not _has_terminal()):
            self.signal = number
        else:
            self._watcher.request()

    def _paused(self) -> bool:
        return self.session.state.agent(AGENT).state == "paused"

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
            name, on_signal = self._agent.options.name, self._subject.on_signal
            self.tell(f"agent {name} is frozen and waits; SIGTERM to {os.getpid()} {on_signal}")
        elif isinstance(self._view, PlainView):
            say(QUESTION)

    def _answer(self, choice: str) -> bool:
        if choice == "leave":
            return False
        who = os.environ.get("SUDO_USER") or getpass.getuser()
        self.session.enforcer.by_hand(AGENT, choice, who)
        return True

    def _close_prompt(self) -> None:
        if self._prompt is not None:
            self._prompt.close()
            self._prompt = None

    def _summarise(self) -> None:
        """What happened, in a few lines, and what to do next."""
        counters = self.session.pipeline.counters
        for notice in self._notices:
            say(notice)
        lost = sum(self._lost().values())
        say(
            f"{counters.records} records, {counters.alerts} alerts"
            + (f", {lost} events lost" if lost else "")
        )
        if self.sink.paused is not None:
            alert = self.sink.paused
            took = alert["latency_us"] / 1000
            say(f"frozen {took:.2f} ms after the decisive byte: {alert['rule']['title']}")
        if self.sink.failed:
            say(f"the alert file is incomplete: {self.sink.failed}")
        if (trace := self._settings.record) is not None:
            say(f"trace: {trace}")
            say(f"replay it with: {_program()} replay {trace}")
        if self.left:
            path = self._agent.cgroup.path
            say("the tree stays frozen")
            say(f"resume it with: echo 0 > {path}/cgroup.freeze")
            say(f"end it with:    echo 1 > {path}/cgroup.kill")

    def _lost(self) -> dict[str, int]:
        return self.session.state.lost(self.session.state.agent(AGENT))

    def exit_code(self) -> int:
        """The contract's exit code; the subject's own where it has none to add."""
        settings = self._settings
        if self.signal and (code := self._subject.code(self.signal)):
            return code
        if self.sink.highest >= 0 and reaches(LEVELS[self.sink.highest], settings.fail_on):
            return Exit.FINDINGS
        if settings.strict and self._lost():
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
