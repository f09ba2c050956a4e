"""Every verb has a man page that says what the verb's own help says."""

from __future__ import annotations

import shutil
import subprocess

import click
import pytest

from agentwatch.cli import manual
from agentwatch.cli.exits import Exit
from agentwatch.cli.main import cli


def commands(command: click.Command, path: str) -> dict[str, click.Command]:
    """A command and all below it, by the names of their pages."""
    found = {f"{path}.1": command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found |= commands(child, f"{path}-{name}")
    return found


COMMANDS = commands(cli, "agentwatch")
PAGES = dict(manual.pages())


def plain(page: str) -> str:
    return page.replace("\\-", "-").replace("\\&", "").replace("\\e", "\\")


def test_there_is_a_page_for_every_verb_and_no_other() -> None:
    assert PAGES.keys() == COMMANDS.keys()
    assert {"agentwatch.1", "agentwatch-run.1", "agentwatch-rules-check.1"} <= PAGES.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_tells_of_every_option(name: str) -> None:
    text = plain(PAGES[name])
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert all(option in text for option in parameter.opts), parameter.opts
            assert " ".join((parameter.help or "").split()) in text
    assert all(code.meaning in text for code in Exit)


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff here")
@pytest.mark.parametrize("name", PAGES)
def test_groff_has_nothing_to_say_against_a_page(name: str) -> None:
    command = ["groff", "-man", "-ww", "-z", "-Tutf8", "-K", "utf8"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_text_is_not_taken_for_roff() -> None:
    @click.command(short_help="'quoted' \\fB and .dotted")
    def hostile() -> None:
        """Reads C:\\new\\fB.

        .so /etc/passwd
        """

    page = manual._page(click.Context(hostile, info_name="hostile"))
    assert "\\&.so /etc/passwd" in page
    assert "C:\\enew\\efB." in page
    assert not [line for line in page.splitlines() if line.startswith(".so")]


def test_the_same_sources_give_the_same_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    pages = dict(manual.pages())
    assert pages == dict(manual.pages())
    assert '.TH "AGENTWATCH" 1 1970-01-02 ' in pages["agentwatch.1"]
