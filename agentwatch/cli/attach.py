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
    from agentwatch.cli.runner import Runner, Watcher


@click.command(short_help="Watch what runs already.")
@options
@click.argument("target", metavar="PID|CGROUP")
def attach(target: str, **values: Any) -> None:
    """Watch what runs already: a cgroup v2 directory, or that of a process.

    Everything in the directory and below is the agent. Ends when nothing is left in it. Ctrl-C
    and SIGTERM detach: the agent goes on, a frozen one stays frozen. Needs root; needs no daemon. Where
    one runs, it watches, under its rules, and goes on when this command ends, until `agentwatch detach`.

    Example: agentwatch attach --mode enforce /sys/fs/cgroup/system.slice/trainer.service
    """
    require_root()
    settings = Settings.given(**values)
    with explained(), ExitStack() as stack:
        daemon = settings.daemon()
        runner = _served(stack, settings, daemon, target) if daemon else _alone(stack, settings, target)
        runner.watch()
    sys.exit(runner.exit_code())


def _alone(stack: ExitStack, settings: Settings, target: str) -> Runner:
    cgroup = stack.enter_context(_cgroup(target))
    name = settings.agent_name(cgroup.path.name)
    watch = stack.enter_context(Watch())
    watch.add(settings.watch(name, running=True), cgroup)
    from agentwatch.cli.alone import Alone  # noqa: PLC0415 (loaded once the probes are attached)
    from agentwatch.cli.runner import AlertSink, Runner  # noqa: PLC0415

    sink = stack.enter_context(AlertSink(settings))
    return Runner(settings, stack.enter_context(Alone(settings, watch, sink)), sink, Found())


def _served(stack: ExitStack, settings: Settings, daemon: Path, target: str) -> Runner:
    from agentwatch.cli import served  # noqa: PLC0415 (only where there is a daemon)
    from agentwatch.cli.runner import AlertSink, Runner  # noqa: PLC0415

    sink = stack.enter_context(AlertSink(settings))
    path = target if target.isdecimal() else str(Path(target).absolute())
    name = None if settings.name is None else settings.agent_name("")
    with served.explained():
        watcher = stack.enter_context(served.Served(daemon, sink, settings, "attach", target=path, name=name))
        watcher.follow()
    runner = Runner(settings, watcher, sink, Found("ends this command, the daemon goes on watching"))
    runner.tell(f"the daemon watches it as agent {watcher.name}; {watcher.way('detach')} ends that")
    return runner


def _cgroup(target: str) -> Cgroup:
    return existing(of_process(int(target)) if target.isdecimal() else Path(target))


class Found:
    """An agent that ran before its watch and goes on after it."""

    def __init__(self, on_signal: str = "detaches, the agent stays as it is") -> None:
        self.on_signal = on_signal

    def output(self) -> list[str]:
        return []

    def tend(self) -> None:
        """Its processes are not ours to wait for."""

    def stop(self, watcher: Watcher, number: int) -> None:
        """It is not ours to end."""

    def leave(self) -> None:
        """Nothing here would end it."""

    def code(self, number: int) -> int:
        return 0
