"""`agentwatch completion`: what a shell must read to complete the command line."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_AGENTWATCH_COMPLETE"
"""The environment variable through which the shell asks (click's protocol)."""


@click.command(short_help="Print the completions for a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what SHELL must read to complete agentwatch's verbs and options.

    The Debian package brings it along. Elsewhere, for bash, in ~/.bashrc:

    eval "$(agentwatch completion bash)"
    """
    click.echo(script(ctx.find_root().command, shell))


def script(cli: click.Command, shell: str) -> str:
    """The script. It asks agentwatch at each completion, and so knows what the installed one knows."""
    kind = get_completion_class(shell)
    assert kind is not None
    # Not the class's own `source`: that of bash looks for a bash here, which may not be the place of use.
    return ShellComplete.source(kind(cli, {}, "agentwatch", VARIABLE))
