"""`agentwatch config`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentwatch.cli.main import cli
from agentwatch.config.json_schema import json_schema

TABLE = '[policy]\nonly = ["{}"]\n[[agent]]\nid = "jobs"\n[agent.select]\nuser = ["alice"]\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "agentwatch.toml"
    path.write_text(TABLE.format("impact"))
    return path


def config(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments], env=environment)


def test_what_is_fine_is_said_with_its_files(path: Path) -> None:
    done = config("check", "--config", str(path))
    assert (done.exit_code, done.output.startswith(f"fine: {path}; 1 tables of agents")) == (0, True)


def test_what_is_wrong_is_said_with_file_and_key(path: Path) -> None:
    path.write_text('[policy]\nmood = "\\u001b[31m"\n')
    done = config("check", "--config", str(path))
    assert done.exit_code == 1
    assert f"{path}: policy.mood: is unknown; is it mode?" in done.output
    assert "\x1b" not in done.output


def test_words_that_name_no_rule_are_wrong(path: Path) -> None:
    path.write_text(TABLE.format("impakt"))
    done = config("check", "--config", str(path))
    assert done.exit_code == 1
    assert "agent.jobs: impakt names no rule, tag or tactic" in done.output


def test_every_value_is_shown_with_its_origin(path: Path) -> None:
    done = config("show", "--origin", "--config", str(path), AGENTWATCH_POLICY_MODE="enforce")
    lines = dict(line.split(" = ", 1) for line in done.output.splitlines())
    assert lines["policy.mode"].split("  # ")[1] == "environment AGENTWATCH_POLICY_MODE"
    assert lines["agent.jobs.only"].split() == ['["impact"]', "#", str(path)]
    assert lines["run_dir"].endswith("# default")
    rows = [json.loads(line) for line in config("show", "--json", "--config", str(path)).output.splitlines()]
    assert {"key": "agent.jobs.select.user", "value": ["alice"], "origin": str(path)} in rows


def test_the_schema_is_json() -> None:
    assert json.loads(config("schema").output) == json_schema()
