"""The walk through `docs/writing-rules.md` works as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentwatch.cli.rules import rules
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules

_FENCE = re.compile(r"```(?:yaml|json) (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that the page shows."""
    page = (RULES.parent / "docs" / "writing-rules.md").read_text(encoding="utf-8")
    for name, text in _FENCE.findall(page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("agentwatch.rules.load.default_cache", lambda: tmp_path / "cache")
    return tmp_path


def test_the_rule_is_sound_and_right_on_its_samples(place: Path) -> None:
    folder = str(place / "my-rules" / "execution")
    assert CliRunner().invoke(rules, ["check", folder]).stdout == "1 rule, 0 remarks\n"
    result = CliRunner().invoke(rules, ["test", folder, "--samples", str(place / "my-samples")])
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).startswith("ok hit 1/1 miss 1/1 undecided 0/0 high")


def test_the_correlation_and_the_exception_load(place: Path) -> None:
    found = load_rules([place / "my-rules"], exceptions=[place / "exceptions.yml"])
    assert {rule.name for rule in found.rules if rule.correlation} == {"many_hosts"}
    assert [exemption.reason for exemption in found.exemptions] == ["the nightly mirror, ticket 4711"]
