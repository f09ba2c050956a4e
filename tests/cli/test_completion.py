"""Shells complete what the command line knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from agentwatch.cli.completion import SHELLS, VARIABLE
from agentwatch.cli.main import cli

VERBS = cli.list_commands(click.Context(cli))


def completed(*words: str) -> set[str]:
    """What the last of the words may be completed to."""
    found = ShellComplete(cli, {}, "agentwatch", VARIABLE).get_completions(list(words[:-1]), words[-1])
    return {item.value for item in found}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_for_every_shell(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="agentwatch")
    assert done.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in done.output
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.output, text=True, check=True)


def test_an_unknown_shell_is_wrong_usage() -> None:
    assert CliRunner().invoke(cli, ["completion", "dos"]).exit_code == 2


def test_every_verb_is_completed() -> None:
    assert completed("") == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_of_every_verb_are_completed(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    options = {name for one in command.params if isinstance(one, click.Option) for name in one.opts}
    assert {name for name in options if name.startswith("--")} <= completed(verb, "--")


def test_choices_are_completed() -> None:
    assert completed("run", "--mode", "e") == {"enforce"}


def test_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "agentwatch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agentwatch "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(agentwatch completion bash)"
        COMP_WORDS=(agentwatch doc) COMP_CWORD=1
        _agentwatch_completion agentwatch
        echo "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "doctor\n"
