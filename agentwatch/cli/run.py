"""`agentwatch run`: start a command as a new agent and watch it until its whole tree has ended."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.cli.options import reaches, rule_set
from agentwatch.kernel.bpf import BpfError
from agentwatch.kernel.bytecode import BuildError
from agentwatch.kernel.cgroup import Cgroup, CgroupError, create
from agentwatch.kernel.probes import ProbeError
from agentwatch.respond.cgroup import kill
from agentwatch.respond.guard import Guard
from agentwatch.rules.model import LEVELS
from agentwatch.session import AGENT, Options, Session
from agentwatch.sinks.alerts import AlertFile, open_alert_file
from agentwatch.spawn import Child
from agentwatch.trace.error import TraceError
from agentwatch.tui.live import PlainView, Prompt, Snapshot, State, View, open_view
from agentwatch.tui.snapshot import Snapshots

STEP_SECONDS = 0.01


@click.command(context_settings={"ignore_unknown_options": False})
@click.option("--name", help="Name of the agent; made from the command where it is not given.")
@click.option(
    "--mode",
    type=click.Choice(["monitor", "enforce"]),
    default="monitor",
    show_default=True,
    help="Only tell (monitor), or pause and kill as the rules say (enforce).",
)
@click.option(
    "--rules",
    "rule_paths",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Sigma rules: a file or folder; may be repeated. The shipped rules where it is not given.",
)
@click.option(
    "--alerts", type=click.Path(path_type=Path), help="Write alerts to FILE, one JSON object a line."
)
@click.option("--record", type=click.Path(path_type=Path), help="Record a trace to FILE, for `replay`.")
@click.option(
    "--on-pause",
    type=click.Choice(["wait", "kill", "leave", "resume"]),
    default="wait",
    show_default=True,
    help="What happens to a paused agent. wait: ask on a terminal, else wait for a signal. "
    "leave: end, the tree stays frozen. resume: let it go on, for demonstrations.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Alerts on standard output; the command's goes to standard error."
)
@click.option(
    "--live", is_flag=True, help="Draw processes, flows and alerts while it runs; needs a terminal."
)
@click.option(
    "--fail-on", type=click.Choice(LEVELS), help="End with 3 when there was an alert at or above this level."
)
@click.option("--strict", is_flag=True, help="End with 6 when events were lost.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    name: str | None,
    mode: str,
    rule_paths: tuple[Path, ...],
    alerts: Path | None,
    record: Path | None,
    on_pause: str,
    as_json: bool,
    live: bool,
    fail_on: str | None,
    strict: bool,
    command: tuple[str, ...],
) -> None:
    """Start COMMAND as a new agent and watch it until its whole process tree has ended.

    Ends with the command's own exit code (128 + signal when a signal ended it). Ctrl-C and
    SIGTERM end the whole tree, a frozen one too. Needs root; needs no daemon.

    Example: agentwatch run --mode enforce --record job.trace -- python train.py
    """
    if os.geteuid():
        raise Failure("watching needs root: run it with sudo", Exit.PRIVILEGE)
    rules = rule_set(rule_paths)
    agent = _agent_name(name, command)
    options = Options(agent, mode, rules, record, command)
    with _explained(), ExitStack() as stack:
        cgroup = stack.enter_context(create(agent))
        stack.callback(_end_tree, cgroup)
        guard = stack.enter_context(Guard(cgroup))
        child = stack.enter_context(Child(command, capture=live, stdout_to_stderr=as_json))
        sink = _Sink(stack, alerts, sys.stdout.buffer if as_json else None)
        session = stack.enter_context(Session(options, cgroup, [sink]))
        runner = Runner(
            session, child, guard, sink, on_pause, open_view(sys.stderr) if live else PlainView(sys.stderr)
        )
        child.start(cgroup, session.probes, AGENT)
        if reason := child.failure():
            _say(f"cannot run {command[0]}: {reason}")
        runner.watch()
    sys.exit(_exit_code(runner, fail_on, strict))


def _end_tree(cgroup: Cgroup) -> None:
    """However the watch ends, no tree goes on without one, unless it was left frozen on purpose."""
    if not cgroup.left and cgroup.populated():
        kill(cgroup)


def _agent_name(name: str | None, command: tuple[str, ...]) -> str:
    """Letters, digits, dots, dashes: it becomes the name of a cgroup, with the pid to make it unique."""
    if name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise click.UsageError("--name takes letters, digits, dots, dashes and underscores, 64 at most")
        return name
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(command[0]).name).strip("-")[:32] or "agent"
    return f"{base}-{os.getpid()}"


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What can go wrong before watching begins, as a sentence and the contract's exit code."""
    try:
        yield
    except (ProbeError, BpfError, BuildError) as error:
        raise Failure(f"{error}\n`agentwatch doctor` says what this host lacks.", Exit.PRIVILEGE) from None
    except CgroupError as error:
        raise Failure(str(error), Exit.PRIVILEGE) from None
    except TraceError as error:
        raise Failure(f"the trace cannot be written: {error}") from None


class _Sink:
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
        self, session: Session, child: Child, guard: Guard, sink: _Sink, on_pause: str, view: View
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
            _say(f"agent {self.session.options.name} is frozen and waits; SIGTERM to {os.getpid()} ends it")
        elif isinstance(self._view, PlainView):
            _say("The agent is frozen:  r resume   k kill   l leave it frozen")

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
        _say(f"{counters.records} records, {counters.alerts} alerts")
        if self.sink.paused is not None:
            alert = self.sink.paused
            took = alert["latency_us"] / 1000
            _say(f"frozen {took:.2f} ms after the decisive byte: {alert['rule']['title']}")
        if self.sink.failed:
            _say(f"the alert file is incomplete: {self.sink.failed}")
        if options.record is not None:
            _say(f"trace: {options.record}")
            _say(f"replay it with: agentwatch replay {options.record}")
        if self.left:
            path = self.session.cgroup.path
            _say("the tree stays frozen")
            _say(f"resume it with: echo 0 > {path}/cgroup.freeze")
            _say(f"end it with:    echo 1 > {path}/cgroup.kill")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"agentwatch: {text}\n")
        sys.stderr.flush()


def _exit_code(runner: Runner, fail_on: str | None, strict: bool) -> int:
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
