"""A scenario judged by the events written down with it, where it cannot run: rules without detectors."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from agentwatch.event import Event, Value
from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from bench.scoreboard.scenarios import VERDICTS, Scenario

_SECOND = 1_000_000_000


def judge(scenario: Scenario, rules: RuleSet) -> tuple[str, list[str]]:
    """The highest verdict over the scenario's events, and the titles of the rules that gave it."""
    engine, verdict, titles = Engine(rules), "allow", list[str]()
    for number, told in enumerate(scenario.events, 1):
        for match in engine.evaluate(_event(told, number)):
            response = "alert" if match.undecided else match.rule.response
            if VERDICTS.index(response) > VERDICTS.index(verdict):
                verdict, titles = response, []
            if response == verdict and match.rule.title not in titles:
                titles.append(match.rule.title)
    return verdict, titles


def _event(told: Mapping[str, Any], number: int) -> Event:
    fields: dict[str, Value] = {name: _value(value) for name, value in told.items() if name != "type"}
    command = fields.get("CommandLine")
    if isinstance(command, str):
        fields.setdefault("Argv", _split(command))
    fields.setdefault("ProcessId", number)
    category = str(told.get("type", "process_creation"))
    return Event(category, number * _SECOND, number, "offline", fields)


def _split(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError:
        return tuple(command.split())


def _value(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(str(one) for one in value)
    return value if isinstance(value, (str, int, float, bool)) else str(value)
