"""`agentwatch run`: start a command as a new agent and watch it until its whole tree has ended."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from agentwatch.cli.exits import Exit, Failure
from agentwatch.kernel.bpf import BpfError
from agentwatch.kernel.bytecode import BuildError
from agentwatch.kernel.cgroup import Cgroup, CgroupError, create
from agentwatch.kernel.loading import ProbeError, ProbeLoading
from agentwatch.respond.cgroup import kill
from agentwatch.respond.guard import Guard
from agentwatch.rules.levels import LEVELS
from agentwatch.spawn import Child
from agentwatch.trace.error import TraceError


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
    agent = _agent_name(name, command)
    with _explained(), ExitStack() as stack:
        cgroup = stack.enter_context(create(agent))
        stack.callback(_end_tree, cgroup)
        guard = stack.enter_context(Guard(cgroup))
        child = stack.enter_context(Child(command, capture=live, stdout_to_stderr=as_json))
        # Both are forked; from here on threads may run. While the kernel verifies the probes,
        # the rest of the program is loaded.
        loading = stack.enter_context(ProbeLoading())
        from agentwatch.cli.options import rule_set  # noqa: PLC0415
        from agentwatch.cli.runner import AlertSink, Runner, exit_code, say  # noqa: PLC0415
        from agentwatch.session import AGENT, Options, Session  # noqa: PLC0415
        from agentwatch.tui.live import PlainView, open_view  # noqa: PLC0415

        options = Options(agent, mode, rule_set(rule_paths), record, command)
        sink = AlertSink(stack, alerts, sys.stdout.buffer if as_json else None)
        session = stack.enter_context(Session(options, cgroup, loading.probes(), [sink]))
        view = open_view(sys.stderr) if live else PlainView(sys.stderr)
        runner = Runner(session, child, guard, sink, on_pause, view)
        child.start(cgroup, session.probes, AGENT)
        if reason := child.failure():
            say(f"cannot run {command[0]}: {reason}")
        runner.watch()
    sys.exit(exit_code(runner, fail_on, strict))


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
