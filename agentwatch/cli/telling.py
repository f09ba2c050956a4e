"""What the verbs of forensics share: saying what a trace lacks, where answers go, and how many work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, BinaryIO

import click

from agentwatch.cli.exits import Exit
from agentwatch.cli.paths import STANDARD_OUTPUT
from agentwatch.tui.text import printable

if TYPE_CHECKING:
    from agentwatch.forensics.account import Account

jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="all CPUs",
    help="How many traces are converted side by side.",
)
SHOWN = 20  # sentences about one trace; --json and reports tell all


class Missing:
    """Says on standard error what recordings lack, and remembers whether that is damage."""

    def __init__(self) -> None:
        self._damaged = False

    def tell(self, account: Account) -> None:
        """Say what is missing from a recording that was replayed."""
        self.say(account.name, account.incomplete + account.unseen, account.outcome.damaged)

    def say(self, name: str, sentences: Iterable[str], damaged: bool) -> None:
        """Say this of a trace."""
        self._damaged |= damaged
        found = list(sentences)
        for sentence in found[:SHOWN]:
            click.echo(f"agentwatch: {printable(name)}: {printable(sentence)}", err=True)
        if len(found) > SHOWN:
            click.echo(f"agentwatch: {printable(name)}: and {len(found) - SHOWN} things more", err=True)

    @property
    def code(self) -> Exit:
        """The exit code: the answer was given, over what there is."""
        return Exit.DAMAGED if self._damaged else Exit.FINE


@contextmanager
def open_output(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is whole, readable by its owner; - is standard output.

    A trace tells what an agent did and said, so what is made of it is as confidential. Raises
    `OSError`.
    """
    if path == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():  # a pipe, /dev/null
        with path.open("wb") as file:
            yield file
        return
    try:
        temporary = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    except OSError as error:  # which names a file that nobody asked for
        raise OSError(error.errno, error.strerror, str(path)) from None
    with temporary as file:
        try:
            yield file  # type: ignore[misc]
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
