"""`agentwatch daemon`: the service."""

from __future__ import annotations

from pathlib import Path

import click

from agentwatch.cli.watching import explained, require_root
from agentwatch.config.model import Config, Control, Policy, Rules
from agentwatch.config.record import Record


@click.command(short_help="Watch many agents, as a service.")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=Path("/run/agentwatch"),
    show_default=True,
    help="Where the control socket and what must survive a restart are.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/agentwatch"),
    show_default=True,
    help="Where incidents and recordings go.",
)
@click.option("--record", is_flag=True, help="Record everything, not incidents alone.")
@click.option("--mode", type=click.Choice(["monitor", "enforce"]), default="monitor", show_default=True)
@click.option(
    "--rules", "rule_paths", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="Sigma rules: a file or folder; may be repeated. The shipped rules where it is not given.",
)  # fmt: skip
def daemon(run_dir: Path, state_dir: Path, record: bool, mode: str, rule_paths: tuple[Path, ...]) -> None:
    """Watch agents until SIGTERM; SIGHUP reads the rules anew. Needs root.

    Agents stay as they are when it ends, frozen ones frozen, and are taken up again by the next.
    """
    require_root()
    config = Config(
        run_dir=run_dir,
        state_dir=state_dir,
        record=Record(enabled=record),
        policy=Policy(mode=mode),
        rules=Rules(paths=rule_paths),
        control=Control(socket=run_dir / "control.sock"),
    )
    with explained():
        from agentwatch.daemon.core import Daemon  # noqa: PLC0415 (`--help` needs none of it)

        with Daemon(config) as service:
            service.run()
