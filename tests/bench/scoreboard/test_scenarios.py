"""Files of scenarios, and pseudo-commands made into what a shell runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench.scoreboard import scenarios
from bench.scoreboard.scenarios import OWN, ScenarioError, parse, read

GOOD = {"id": "x", "kind": "attack", "family": "mining", "command": "true", "expected": "kill"}


def test_our_own_set_is_large_and_well_formed() -> None:
    own = read(OWN)
    assert len([one for one in own if one.is_attack]) >= 60
    assert len([one for one in own if not one.is_attack]) >= 30
    assert all(one.expected == "allow" for one in own if not one.is_attack)
    assert all(one.expected != "allow" for one in own if one.is_attack)
    for one in own:
        done = subprocess.run(["bash", "-n", "-c", one.script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (one.id, done.stderr)


def test_the_corpus_can_be_read() -> None:
    path = scenarios.corpus()
    if path is None:
        pytest.skip(f"no corpus: set {scenarios.CORPUS_VARIABLE}")
    found = read(path)
    assert found and {one.id for one in found}.isdisjoint(one.id for one in read(OWN))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "odd"}, "kind is one of"),
        ({"expected": "maim"}, "expected one of"),
        ({"command": 7}, "command is no text"),
        ({"seconds": "soon"}, "could not convert"),
        ({"events": [1]}, "TypeError"),
    ],
)
def test_what_is_no_scenario_is_named(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{json.dumps(GOOD | {'id': 'y'} | change)}\n")
    with pytest.raises(ScenarioError, match=f"s.jsonl:2: .*{reason}"):
        read(path)


def test_an_id_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(GOOD)}\n")
    with pytest.raises(ScenarioError, match=r"s.jsonl:3: x is there twice"):
        read(path)


@pytest.mark.parametrize(
    ("command", "script"),
    [
        ("python3 a.py   (asyncssh)", "python3 a.py"),
        ("python3 s.py (sendfile/splice)", "python3 s.py"),
        ("kill -STOP $(pidof x)", "kill -STOP $(pidof x)"),
        ('bash -c "echo $l; cat <&5"', "bash -c 'echo $l; cat <&5'"),
        ('sh -c "it\'s $l"', 'sh -c "it\'s $l"'),
        ("echo hello", "echo hello"),
    ],
)
def test_pseudo_commands_become_commands(command: str, script: str) -> None:
    assert parse(GOOD | {"command": command}).script == script


def test_what_everybody_knows_is_written_out() -> None:
    script = parse(GOOD | {"command": "python3 -c \"...;pty.spawn('/bin/sh')\""}).script
    assert "..." not in script and "connect" in script and script.endswith("pty.spawn('/bin/sh')\"")
