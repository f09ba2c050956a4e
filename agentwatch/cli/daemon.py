"""`agentwatch daemon`: the service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agentwatch.cli.config import loaded
from agentwatch.cli.watching import explained, require_root
from agentwatch.config.load import MAIN


@click.command(short_help="Watch many agents, as a service.")
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The configuration, with its drop-ins; {MAIN} where it is not given.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    help="Where the control socket and what must survive a restart are (run_dir).",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="Where incidents and recordings go (state_dir).",
)
@click.option("--record", is_flag=True, help="Record everything, not incidents alone (record.enabled).")
@click.option("--mode", type=click.Choice(["monitor", "enforce"]), help="policy.mode")
@click.option(
    "--rules", "rule_paths", multiple=True, type=click.Path(exists=True, path_type=Path),
    help="Sigma rules: a file or folder; may be repeated (rules.paths).",
)  # fmt: skip
def daemon(
    path: Path | None,
    run_dir: Path | None,
    state_dir: Path | None,
    record: bool,
    mode: str | None,
    rule_paths: tuple[Path, ...],
) -> None:
    """Watch agents until SIGTERM; SIGHUP reads configuration and rules anew. Needs root.

    A flag goes over what the configuration says. Agents stay as they are when it ends, frozen ones
    frozen, and are taken up again by the next.
    """
    require_root()
    flags: dict[str, Any] = {
        "run_dir": run_dir and run_dir.absolute(),
        "state_dir": state_dir and state_dir.absolute(),
        "record.enabled": record,
        "policy.mode": mode,
        "rules.paths": tuple(path.absolute() for path in rule_paths),
    }
    flags = {key: value for key, value in flags.items() if value}
    found = loaded(path, flags)
    with explained():
        from agentwatch.daemon.core import Daemon  # noqa: PLC0415 (`--help` needs none of it)

        with Daemon(found.config, path, flags) as service:
            service.run()
