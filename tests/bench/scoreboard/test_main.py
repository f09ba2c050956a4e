"""The command: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.scoreboard import __main__ as board
from bench.scoreboard import scenarios

RULE = """
title: Everything That Runs
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e0002
status: test
logsource: {product: linux, category: process_creation}
detection:
  one: {Image|contains: /}
  condition: one
level: high
agentwatch: {response: kill}
"""


def event(name: str) -> dict[str, str]:
    return {"type": "process_creation", "Image": f"/usr/bin/{name}", "CommandLine": name}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two scenarios in the place of the corpus."""
    lines = [
        {
            "id": "A",
            "kind": "attack",
            "family": "f",
            "command": "a",
            "expected": "kill",
            "events": [event("a")],
        },
        {
            "id": "B",
            "kind": "benign",
            "family": "g",
            "command": "b",
            "expected": "allow",
            "events": [event("b")],
        },
    ]
    (tmp_path / "scenarios.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv(scenarios.CORPUS_VARIABLE, str(tmp_path))
    return tmp_path


def run(*words: object) -> int:
    return board.main(["--offline", *map(str, words)])


def test_targets_met_and_missed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = corpus / "r.yml"
    rule.write_text(RULE)
    assert run("--set", "corpus", "--only", "A", "--rules", rule) == 0
    assert run("--set", "corpus", "--rules", rule) == 3
    out = capsys.readouterr().out
    assert "honest scenarios met with more than an alert" in out and "Everything That Runs" in out


def test_json_has_a_line_for_each_and_nothing_else(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "r.yml").write_text(RULE)
    run("--json", "--set", "corpus", "--rules", corpus / "r.yml")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["id"], one["how"], one["verdict"]) for one in told] == [
        ("A", "offline", "kill"),
        ("B", "offline", "kill"),
    ]


def test_without_a_corpus_our_own_set_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(scenarios.CORPUS_VARIABLE, str(tmp_path / "none"))
    assert run("--json", "--only", "cloud-cred") in (0, 3)
    assert {json.loads(line)["set"] for line in capsys.readouterr().out.splitlines()} == {"own"}
    assert run("--set", "corpus") == 2
    assert scenarios.CORPUS_VARIABLE in capsys.readouterr().err


def test_a_part_is_not_written_down(corpus: Path) -> None:
    before = board.PAGE.read_bytes() if board.PAGE.exists() else None
    (corpus / "r.yml").write_text(RULE)
    run("--rules", corpus / "r.yml")
    assert (board.PAGE.read_bytes() if board.PAGE.exists() else None) == before
