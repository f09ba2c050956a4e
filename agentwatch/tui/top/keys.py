"""The keys of `agentwatch top`: one table, from which come bindings, footer, help and manual page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

SCREENS: Final = ("agents", "processes", "flows", "alerts", "events", "gpu", "files", "health")


class Key(NamedTuple):
    """One key. `press` is Textual's name of it, `shown` what is on the keyboard, `label` its word in
    the footer (none: not there). `acts`: it changes something. `replay`: where it exists; None: everywhere.
    """

    press: str
    shown: str
    action: str
    label: str
    help: str
    acts: bool = False
    replay: bool | None = None


KEYS: Final = (
    *(
        Key(str(number), str(number), f"screen('{name}')", "", f"show {name}")
        for number, name in enumerate(SCREENS, 1)
    ),
    Key("enter", "enter", "open", "open",
        "look into the selected row: an agent's processes, or all that is known of it"),
    Key("p", "p", "pause", "pause", "freeze the agent: all its processes stop where they are",
        acts=True, replay=False),
    Key("r", "r", "resume", "resume", "let the frozen agent go on", acts=True, replay=False),
    Key("K", "K", "kill", "kill", "end all processes of the agent, once you have typed its name",
        acts=True, replay=False),
    Key("e", "e", "explain", "explain",
        "why an alert was raised: which selection of its rule matched which field"),
    Key("w", "w", "save", "save", "save what was recorded of the agent as a trace", acts=True, replay=False),
    Key("full_stop", ".", "step(1)", "next", "to the next event", replay=True),
    Key("comma", ",", "step(-1)", "previous", "to the previous event", replay=True),
    Key("greater_than_sign", ">", "step_alert(1)", "next alert", "to the next alert", replay=True),
    Key("less_than_sign", "<", "step_alert(-1)", "alert before", "to the alert before", replay=True),
    Key("t", "t", "ask_time", "time",
        "to a time: seconds since the beginning, 50 %, or 2026-01-31T12:00:00Z", replay=True),
    Key("slash", "/", "search", "search", "find a row in which a text stands"),
    Key("escape", "esc", "leave", "back", "close what is open, then drop search, filter and agent"),
    Key("n", "n", "found(1)", "", "to the next row in which it stands"),
    Key("N", "N", "found(-1)", "", "to the row before in which it stands"),
    Key("f", "f", "filter", "filter",
        "show only rows whose fields are so: Image|endswith: /curl and DestinationPort: 443"),
    Key("colon", ":", "command", "", "give a command; a wrong one lists them"),
    Key("up", "up", "move(-1)", "", "one row up; also k"),
    Key("k", "k", "move(-1)", "", ""),
    Key("down", "down", "move(1)", "", "one row down; also j"),
    Key("j", "j", "move(1)", "", ""),
    Key("pageup", "page up", "page(-1)", "", "one page up"),
    Key("pagedown", "page down", "page(1)", "", "one page down"),
    Key("home", "home", "edge(-1)", "", "to the first row"),
    Key("end", "end", "edge(1)", "", "to the last row"),
    Key("question_mark", "?", "help", "help", "what the keys and columns mean"),
    Key("q", "q", "quit", "quit", "leave; agents stay as they are"),
)  # fmt: skip
_OF_ROWS: Final = ("open", "search", "filter", "explain")
_LAST: Final = ("help", "quit")  # in the footer whatever its width


def available(*, may_act: bool, may_save: bool, replay: bool) -> list[Key]:
    """The keys that do something here."""
    return [
        key
        for key in KEYS
        if key.replay in (None, replay)
        and (may_act or not key.acts)
        and (may_save or key.action != "save")
    ]  # fmt: skip


def footer(keys: Iterable[Key], width: int, *, reading: bool = False) -> list[tuple[str, str]]:
    """Keys and their words, as many as fit in `width` cells; help and quit always.

    `reading`: a page is open, over which keys of rows do nothing.
    """
    labelled = [key for key in keys if key.label and not (reading and key.action in _OF_ROWS)]
    last = [key for key in labelled if key.action in _LAST]
    room = width - sum(_cells(key) for key in last)
    chosen = []
    for key in labelled:
        if key not in last and _cells(key) <= room:
            chosen.append(key)
            room -= _cells(key)
    return [(key.shown, key.label) for key in (*chosen, *last)]


def _cells(key: Key) -> int:
    return len(key.shown) + len(key.label) + 3


def help_lines(keys: Iterable[Key]) -> list[tuple[str, str]]:
    """Every key with what it does."""
    return [(key.shown, key.help) for key in keys if key.help]


def markdown() -> str:
    """The table for the documentation."""
    where = {None: "", True: "with --replay", False: "live"}
    rows = [
        f"| `{key.shown}` | {key.help.replace('|', chr(92) + '|')} | {where[key.replay]} |"
        for key in KEYS
        if key.help
    ]
    return "\n".join(("| key | does | only |", "|---|---|---|", *rows)) + "\n"


def manual() -> str:
    """The section KEYS of the manual page, in man(7) macros."""
    lines = [".SH KEYS"]
    for key in KEYS:
        if key.help:
            lines += [".TP", rf".B {_roff(key.shown)}", _roff(key.help)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text[:1] in ".'" else text
