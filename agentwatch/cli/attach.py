"""`agentwatch attach`: watch an agent that runs already."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentwatch.cli.watching import Settings, explained, options, require_root
from agentwatch.kernel.cgroup import Cgroup, existing, of_process
from agentwatch.watch import Watch

if TYPE_CHECKING:
    from agentwatch.respond.enforce import Enforcer


@click.command(short_help="Watch what runs already.")
@options
@click.argument("target", metavar="PID|CGROUP")
def attach(target: str, **values: Any) -> None:
    """Watch what runs already: a cgroup v2 directory, or that of a process.

    Everything in the directory and below is the agent. Ends when nothing is left in it. Ctrl-C
    and SIGTERM detach: the agent goes on, a frozen one stays frozen. Needs root; needs no daemon.

    Example: agentwatch attach --mode enforce /sys/fs/cgroup/system.slice/trainer.service
    """
    require_root()
    settings = Settings.given(**values)
    with explained(), ExitStack() as stack:
        cgroup = stack.enter_context(_cgroup(target))
        name = settings.agent_name(cgroup.path.name)
        watch = stack.enter_context(Watch())
        watch.add(settings.watch(name, running=True), cgroup)
        from agentwatch.cli.runner import Runner  # noqa: PLC0415 (loaded once the probes are attached)

        runner = stack.enter_context(Runner(settings, watch, Found()))
        runner.watch()
    sys.exit(runner.exit_code())


def _cgroup(target: str) -> Cgroup:
    return existing(of_process(int(target)) if target.isdecimal() else Path(target))


class Found:
    """An agent that ran before its watch and goes on after it."""

    on_signal = "detaches, the agent stays as it is"

    def output(self) -> list[str]:
        return []

    def tend(self) -> None:
        """Its processes are not ours to wait for."""

    def stop(self, enforcer: Enforcer, number: int) -> None:
        """It is not ours to end."""

    def leave(self) -> None:
        """Nothing here would end it."""

    def code(self, number: int) -> int:
        return 0
