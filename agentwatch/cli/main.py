"""`agentwatch VERB`. Verbs are loaded when they are used: a warm start pays for nothing else."""

from __future__ import annotations

import importlib
import sys

import click

from agentwatch import __version__
from agentwatch.cli.exits import Exit

# Verb -> module and the command's name in it.
_VERBS = {
    "run": ("agentwatch.cli.run", "run"),
    "attach": ("agentwatch.cli.attach", "attach"),
    "daemon": ("agentwatch.cli.daemon", "daemon"),
    **{
        verb: ("agentwatch.cli.control", verb)
        for verb in ("status", "ps", "alerts", "events", "pause", "resume", "kill", "detach", "save", "mark")
    },
    "top": ("agentwatch.cli.top", "top"),
    "replay": ("agentwatch.cli.replay", "replay"),
    "doctor": ("agentwatch.cli.doctor", "doctor"),
    "rules": ("agentwatch.cli.rules", "rules"),
    "config": ("agentwatch.cli.config", "config"),
    "query": ("agentwatch.cli.query", "query"),
    "blame": ("agentwatch.cli.blame", "blame"),
    "report": ("agentwatch.cli.report", "report"),
    "trace": ("agentwatch.cli.trace", "trace"),
    "completion": ("agentwatch.cli.completion", "completion"),
}


class Verbs(click.Group):
    """Finds a verb's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, name = _VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentwatch")
def cli() -> None:
    """Watch AI agents from the kernel, recognise what they must not do, and stop them."""


def main() -> None:
    """Entry point: what goes wrong is one sentence on standard error and an exit code."""
    try:
        sys.exit(cli.main(prog_name="agentwatch", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(128 + 2)
    except BrokenPipeError:
        sys.exit(Exit.FAILURE)


if __name__ == "__main__":
    main()
