"""Runs commands under `agentwatch run` and gives the events that were told, checked against a replay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentwatch.demo.hosts import Lab
from agentwatch.demo.materials import clean_environment

SECONDS = 60
RULE = """
title: {title}
id: 0f6d3c8e-6d8c-4c0e-9f6b-8a1c7a52{number:04x}
status: test
logsource: {{product: agentwatch, category: {category}}}
detection:
  one: {{{condition}}}
  condition: one
level: high
"""


def write_rules(folder: Path, *events: tuple[str, str]) -> Path:
    """Rules that alert on events, each given as its category and what its fields are."""
    for number, (category, condition) in enumerate(events):
        text = RULE.format(title=category, number=number, category=category, condition=condition)
        (folder / f"{number}.yml").write_text(text)
    return folder


class Watcher:
    """Runs commands under watch and gives the events that were told, checked against a replay."""

    def __init__(self, lab: Lab, rules: Path, folder: Path) -> None:
        self._lab, self._rules, self._folder = lab, rules, folder

    def __call__(self, command: list[str], *, code: int | None = None) -> list[dict[str, Any]]:
        alerts, trace, again = (self._folder / name for name in ("alerts", "trace", "again"))
        with_rules = ["--rules", str(self._rules), "--alerts"]
        run = [sys.executable, "-m", "agentwatch", "run", "--record", str(trace), *with_rules, str(alerts)]
        environment = clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [*run, "--", *self._lab.inside(command)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self._folder,
            env=environment,
            timeout=SECONDS,
            check=False,
        )
        replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), *with_rules, str(again)]
        replayed = subprocess.run(replay, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert replayed.returncode == 0, replayed.stderr
        assert again.read_bytes() == alerts.read_bytes()
        assert code is None or done.returncode == code, done.stderr
        return [json.loads(line) for line in alerts.read_text().splitlines()]
