"""`agentwatch run`: start a command as a new agent and watch it until its whole tree has ended."""

from __future__ import annotations

import os
import sys
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
    from agentwatch.respond.enforce import Enforcer


@click.command(short_help="Start a command and watch its whole process tree.")
@options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...], **values: Any) -> None:
    """Start COMMAND as a new agent and watch it until its whole process tree has ended.

    Ends with the command's own exit code (128 + signal when a signal ended it). Ctrl-C and
    SIGTERM end the whole tree, a frozen one too. Needs root; needs no daemon.

    Example: agentwatch run --mode enforce --record job.trace -- python train.py
    """
    require_root()
    settings = Settings.given(**values)
    name = settings.agent_name(Path(command[0]).name)
    if settings.name is None:
        name += f"-{os.getpid()}"  # it becomes that of a cgroup
    with explained(), ExitStack() as stack:
        cgroup = stack.enter_context(create(name))
        stack.callback(_end_tree, cgroup)
        guard = stack.enter_context(Guard(cgroup))
        child = stack.enter_context(Child(command, capture=settings.live, stdout_to_stderr=settings.as_json))
        # Both are forked; from here on threads may run.
        watch = stack.enter_context(Watch())
        watch.add(settings.watch(name, command), cgroup)
        from agentwatch.cli.runner import Runner  # noqa: PLC0415 (loaded once the probes are attached)

        runner = stack.enter_context(Runner(settings, watch, Started(child, guard, cgroup)))
        child.start(cgroup, watch.probes, AGENT)
        if reason := child.failure():
            runner.tell(f"cannot run {command[0]}: {reason}")
        runner.watch()
    sys.exit(runner.exit_code())


class Started:
    """An agent that was started here: it ends with its watch."""

    on_signal = "ends the agent"

    def __init__(self, child: Child, guard: Guard, cgroup: Cgroup) -> None:
        self._child, self._guard, self._cgroup = child, guard, cgroup

    def output(self) -> list[str]:
        return self._child.output()

    def tend(self) -> None:
        self._child.reap()

    def stop(self, enforcer: Enforcer, number: int) -> None:
        enforcer.by_hand(AGENT, "kill", f"signal {number}")

    def leave(self) -> None:
        self._guard.dismiss()
        self._cgroup.leave()

    def code(self, number: int) -> int:
        return 128 + number if number else self._child.wait()


def _end_tree(cgroup: Cgroup) -> None:
    """However the watch ends, no tree goes on without one, unless it was left frozen on purpose."""
    if not cgroup.left and cgroup.populated():
        kill(cgroup)
