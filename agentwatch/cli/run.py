"""`agentwatch run`: start a command as a new agent and watch it until its whole tree has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentwatch.cli.watching import Settings, explained, options, require_root
from agentwatch.kernel.cgroup import Cgroup, create
from agentwatch.respond.cgroup import kill
from agentwatch.respond.guard import Guard
from agentwatch.spawn import Child
from agentwatch.watch import AGENT, Watch

if TYPE_CHECKING:
    from agentwatch.cli.runner import Runner, Watcher


@click.command(short_help="Start a command and watch its whole process tree.")
@options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], **values: Any) -> None:
    """Start COMMAND as a new agent and watch it until its whole process tree has ended.

    Ends with the command's own exit code (128 + signal when a signal ended it). Ctrl-C and
    SIGTERM end the whole tree, a frozen one too. Needs root; needs no daemon. Where one runs, it watches,
    under its rules and policy: the agent is in its `ps`, and who ends this command ends the agent, too.

    Example: agentwatch run --mode enforce --record job.trace -- python train.py
    """
    require_root()
    settings = Settings.given(**values)
    name = settings.agent_name(Path(command[0]).name)
    if settings.name is None:
        name += f"-{os.getpid()}"  # it becomes that of a cgroup
    with explained(), ExitStack() as stack:
        daemon = settings.daemon()
        runner, child = (
            _served(stack, settings, daemon, name, command)
            if daemon
            else _alone(stack, settings, name, command)
        )
        if reason := child.failure():
            runner.tell(f"cannot run {command[0]}: {reason}")
        runner.watch()
    sys.exit(runner.exit_code())


def _alone(stack: ExitStack, settings: Settings, name: str, command: tuple[str, ...]) -> tuple[Runner, Child]:
    cgroup = stack.enter_context(create(name))
    stack.callback(_end_tree, cgroup)
    guard = stack.enter_context(Guard(cgroup))
    child = stack.enter_context(Child(command, capture=settings.live, stdout_to_stderr=settings.as_json))
    # Both are forked; from here on threads may run.
    watch = stack.enter_context(Watch())
    watch.add(settings.watch(name, command), cgroup)
    from agentwatch.cli.alone import Alone  # noqa: PLC0415 (loaded once the probes are attached)
    from agentwatch.cli.runner import AlertSink, Runner  # noqa: PLC0415

    sink = stack.enter_context(AlertSink(settings))
    watcher = stack.enter_context(Alone(settings, watch, sink))

    def leave() -> None:
        guard.dismiss()
        cgroup.leave()

    runner = Runner(settings, watcher, sink, Started(child, leave))
    child.start(cgroup, watch.probes, AGENT)
    return runner, child


def _served(
    stack: ExitStack, settings: Settings, daemon: Path, name: str, command: tuple[str, ...]
) -> tuple[Runner, Child]:
    from agentwatch.api import Agent  # noqa: PLC0415 (only where there is a daemon)
    from agentwatch.cli import served  # noqa: PLC0415
    from agentwatch.cli.runner import AlertSink, Runner  # noqa: PLC0415

    sink = stack.enter_context(AlertSink(settings))
    with served.explained():
        watcher = stack.enter_context(served.Served(daemon, sink, settings, "begin", name=name))
        enter = Agent(watcher.name, daemon).enter
        child = Child(command, capture=False, stdout_to_stderr=settings.as_json, enter=enter)
        stack.enter_context(child)
        watcher.follow()  # in a thread: the child is forked by now
    runner = Runner(settings, watcher, sink, Started(child))
    runner.tell(f"the daemon watches it as agent {watcher.name}")
    child.release()
    return runner, child


class Started:
    """An agent that was started here: it ends with its watch."""

    on_signal = "ends the agent"

    def __init__(self, child: Child, leave: Callable[[], None] = lambda: None) -> None:
        self._child, self._leave = child, leave

    def output(self) -> list[str]:
        return self._child.output()

    def tend(self) -> None:
        self._child.reap()

    def stop(self, watcher: Watcher, number: int) -> None:
        watcher.by_hand("kill", f"signal {number}")

    def leave(self) -> None:
        self._leave()

    def code(self, number: int) -> int:
        return 128 + number if number else self._child.wait()


def _end_tree(cgroup: Cgroup) -> None:
    """However the watch ends, no tree goes on without one, unless it was left frozen on purpose."""
    if not cgroup.left and cgroup.populated():
        kill(cgroup)
