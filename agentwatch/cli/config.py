"""`agentwatch config`: what the daemon would do with its configuration, told without it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agentwatch.cli.exits import Failure
from agentwatch.cli.options import rule_set
from agentwatch.config.json_schema import json_schema
from agentwatch.config.keys import plain
from agentwatch.config.load import MAIN, ConfigError, Loaded, load
from agentwatch.rules.selection import strangers
from agentwatch.tui.text import printable

_FILE = click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The main file, whose drop-ins lie in a folder of the same name in .d; {MAIN} where not given.",
)


@click.group(short_help="Check, show and describe the configuration.")
def config() -> None:
    """The configuration: flags over AGENTWATCH_SECTION_KEY over drop-ins over the main file."""


def loaded(path: Path | None, flags: dict[str, object] | None = None) -> Loaded:
    """The configuration in force; what is wrong with it is the failure's text."""
    try:
        return load(path, flags)
    except ConfigError as error:
        told = "\n".join(printable(str(problem)) for problem in error.problems)
        raise Failure(f"the configuration cannot be used:\n{told}") from None


@config.command()
@_FILE
def check(path: Path | None) -> None:
    """Say all that is wrong, with file and key; the rules and the words that select them, too."""
    found = loaded(path)
    rules = rule_set(found.config.rules.paths, found.config.rules.exceptions)
    unknown = [
        f"{name}: {word} names no rule, tag or tactic"
        for name, policy in (
            ("policy", found.config.policy),
            *((f"agent.{t.id}", t) for t in found.config.agent),
        )
        for word in strangers((*policy.only, *policy.without), rules)
    ]
    if unknown:
        raise Failure("\n".join(printable(line) for line in unknown))
    files = ", ".join(map(str, found.files)) or "no file, defaults only"
    click.echo(f"fine: {files}; {len(found.config.agent)} tables of agents, {len(rules.rules)} rules")


@config.command()
@_FILE
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def show(path: Path | None, origin: bool, as_json: bool) -> None:
    """Show every value in force, those that nobody set, too."""
    for setting in loaded(path).settings:
        value = plain(setting.value)
        if as_json:
            told = {"key": setting.key, "value": value, "origin": setting.origin}
            click.echo(json.dumps(told, sort_keys=True))
            continue
        line = f"{setting.key} = {json.dumps(value) if value is not None else 'not set'}"
        click.echo(f"{line:<58}  # {printable(setting.origin)}" if origin else line)


@config.command()
def schema() -> None:
    """Print the JSON schema of the files."""
    click.echo(json.dumps(json_schema(), indent=2))
