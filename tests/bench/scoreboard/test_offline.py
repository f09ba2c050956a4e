"""Scenarios judged by their written events."""

from __future__ import annotations

from pathlib import Path

from agentwatch.rules.load import load_rules
from bench.scoreboard.offline import judge
from bench.scoreboard.scenarios import Scenario

RULE = """
title: Word in the second place
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e0001
status: test
logsource: {product: linux, category: process_creation}
detection:
  one: {"Argv#1": apply}
  condition: one
level: high
agentwatch: {response: pause}
"""


def test_the_highest_response_counts(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(RULE)
    rules = load_rules([tmp_path / "r.yml"])

    def scenario(command: str) -> Scenario:
        event = {"type": "process_creation", "Image": "/usr/bin/t", "CommandLine": command}
        return Scenario("x", "attack", "f", command, "pause", events=(event, {"type": "odd", "A": [1]}))

    assert judge(scenario("terraform apply -auto-approve"), rules) == ("pause", ["Word in the second place"])
    assert judge(scenario("terraform plan 'apply"), rules) == ("allow", [])
