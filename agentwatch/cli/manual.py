"""Man pages, made from the command line itself: `python -m agentwatch.cli.manual FOLDER`.

agentwatch(1) and one page for each verb and each of its subcommands, in the roff of man(7). The date is
that of $SOURCE_DATE_EPOCH, so that the same sources give the same pages.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from agentwatch import __version__
from agentwatch.cli.exits import Exit
from agentwatch.cli.main import cli

_FILES = (
    ("/etc/agentwatch/agentwatch.toml, /etc/agentwatch/agentwatch.d/*.toml", "configuration of the daemon"),
    ("/run/agentwatch/control.sock", "the daemon's control socket"),
    ("/run/agentwatch/agents.json", "which agents are watched and which are frozen, for the next daemon"),
    ("/var/cache/agentwatch", "compiled probes and rules; may be removed at any time"),
)


def pages() -> Iterator[tuple[str, str]]:
    """Names of the pages ("agentwatch-run.1") and their text."""
    for context in _contexts(_context(cli, None, "agentwatch")):
        yield f"{_title(context)}.1", _page(context)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Of a command and all below it."""
    yield context
    for name, command in _subcommands(context):
        yield from _contexts(_context(command, context, name))


def _context(command: click.Command, parent: click.Context | None, name: str) -> click.Context:
    return click.Context(command, parent, name, **command.context_settings)


def _subcommands(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None and not command.hidden:
                yield name, command


def _title(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(context: click.Context) -> str:
    title, command = _title(context), context.command
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    lines = [
        f'.TH "{_text(title.upper())}" 1 {date} "agentwatch {_text(__version__)}" "agentwatch"',
        ".SH NAME",
        f"{_text(title)} \\- {_text(_summary(command))}",
        ".SH SYNOPSIS",
        f"\\fB{_text(context.command_path)}\\fR {_text(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_paragraphs(inspect.cleandoc(command.help or "")),
        *_items("COMMANDS", _verbs(context)),
        *_items("OPTIONS", _options(context)),
        *_items("ENVIRONMENT", _variables(context)),
    ]
    if context.parent is None:
        lines += _items("FILES", _FILES)
    lines += _items("EXIT STATUS", ((str(code.value), code.meaning) for code in Exit))
    lines += [".SH SEE ALSO", _see_also(context)]
    return "\n".join(lines) + "\n"


def _summary(command: click.Command) -> str:
    summary = command.get_short_help_str(200).removesuffix(".")
    return summary[:1].lower() + summary[1:]


def _verbs(context: click.Context) -> Iterator[tuple[str, str]]:
    for name, command in _subcommands(context):
        yield name, command.get_short_help_str(200)


def _options(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            yield record


def _variables(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.get_params(context):
        if isinstance(parameter.envvar, str):
            yield parameter.envvar, f"stands for {parameter.opts[-1]} where that is not given"


def _items(heading: str, rows: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> list[str]:
    """A section of terms and what they mean; nothing where there are none."""
    lines = [f".SH {heading}"]
    for term, meaning in rows:
        lines += [".TP", f"\\fB{_text(term)}\\fR", _text(" ".join(meaning.split()))]
    return lines if len(lines) > 1 else []


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.replace("\f", "").split("\n\n"):
        yield ".PP"
        # click's mark for a paragraph whose lines are to be kept
        kept = paragraph.startswith("\b\n")
        yield from ([".nf"] if kept else [])
        yield from (_text(line.strip()) for line in paragraph.removeprefix("\b\n").splitlines())
        yield from ([".fi"] if kept else [])


def _see_also(context: click.Context) -> str:
    names = [f"{_title(context)}-{name}" for name, _ in _subcommands(context)]
    if context.parent is not None:
        names.insert(0, _title(context.parent))
    return ",\n".join(f"\\fB{_text(name)}\\fR(1)" for name in names)


def _text(text: str) -> str:
    """As roff: what it would take for a command or an escape is written so that it does not."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


def main(folder: Path) -> None:
    """Write every page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
