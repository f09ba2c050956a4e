"""`agentwatch rules`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agentwatch.cli.rules import rules
from agentwatch.resources import RULES

STRATUM = "82e98ee6-a64a-4b74-86c8-cc876591d0d7"
RULE = """title: A shell
id: 11111111-1111-4111-8111-111111111111
logsource:
  category: process_creation
  product: linux
detection:
  s:
    Image|endswith: ['sh', '/bash']
  condition: s
level: low
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of the test's own."""
    monkeypatch.setattr("agentwatch.rules.load.default_cache", lambda: tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one rule."""
    place = tmp_path / "tactic"
    place.mkdir()
    (place / "shell.yml").write_text(RULE)
    return place


def run(*arguments: object, stdin: str | None = None) -> Result:
    """The command with these arguments."""
    return CliRunner().invoke(rules, [str(argument) for argument in arguments], input=stdin)


def test_list_names_the_shipped_rules() -> None:
    result = run("list")
    assert result.exit_code == 0
    (line,) = [line for line in result.stdout.splitlines() if STRATUM in line]
    assert line.split()[:4] == ["critical", "pause", "flow", STRATUM]
    assert line.endswith("Agent Speaks Stratum to a Mining Pool")


def test_list_as_json(folder: Path) -> None:
    (line,) = run("list", folder, "--json").stdout.splitlines()
    found = json.loads(line)
    assert (found["title"], found["level"], found["categories"]) == ("A shell", "low", ["process_creation"])


def test_check_warns(folder: Path) -> None:
    result = run("check", folder)
    assert result.exit_code == 0
    assert f"{folder / 'shell.yml'}:1: warning: Image endswith '/bash' is unreachable" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 rule, 1 remark"


def test_check_names_what_is_broken(folder: Path) -> None:
    (folder / "shell.yml").write_text(RULE.replace("condition: s", "condition: t"))
    result = run("check", folder)
    assert result.exit_code == 1
    assert f"{folder / 'shell.yml'}:9: error: the condition names 't'" in result.stdout


def test_check_tells_expired_exceptions(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "exceptions"
    whom = "rule: 11111111-1111-4111-8111-111111111111, user: a"
    file.write_text(f"exceptions:\n  - {{{whom}, reason: r, expires: 2020-01-01}}\n")
    assert (
        f"{file}:2: warning: the exception has expired" in run("check", folder, "--exceptions", file).stdout
    )


def sample(tmp_path: Path, name: str, image: str, **more: Any) -> None:
    """A sample of one event for the rule."""
    place = tmp_path / "samples" / "tactic" / "shell"
    place.mkdir(parents=True, exist_ok=True)
    event = {"category": "process_creation", "fields": {"Image": image}, **more}
    (place / name).write_text(json.dumps(event) + "\n")


def test_test_passes_where_samples_are_judged_right(folder: Path, tmp_path: Path) -> None:
    sample(tmp_path, "hit.ndjson", "/bin/bash")
    sample(tmp_path, "miss_other.ndjson", "/bin/ls")
    sample(tmp_path, "undecided.ndjson", "/bin/ba", truncated=["Image"])
    result = run("test", folder, "--samples", tmp_path / "samples")
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()) == "ok hit 1/1 miss 1/1 undecided 1/1 low A shell"


def test_test_fails_where_one_is_not(folder: Path, tmp_path: Path) -> None:
    sample(tmp_path, "hit.ndjson", "/bin/ls")
    sample(tmp_path, "miss.ndjson", "/bin/sh")
    result = run("test", folder, "--samples", tmp_path / "samples")
    assert result.exit_code == 1
    assert "expected hit, found miss" in result.stdout
    assert "expected miss, found hit" in result.stdout


def test_test_names_rules_without_a_sample_and_samples_that_cannot_be_run(
    folder: Path, tmp_path: Path
) -> None:
    assert run("test", folder, "--samples", tmp_path / "none").stdout.startswith("no sample")
    sample(tmp_path, "hit.ndjson", "/bin/ls")
    (tmp_path / "samples" / "tactic" / "shell" / "hit.ndjson").write_text("{}\n")
    result = run("test", folder, "--samples", tmp_path / "samples", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["found"].startswith("cannot be run: line 1 is no event")


ALERT = {
    "rule": {"id": STRATUM},
    "agent": "a",
    "process": {
        "pid": 7,
        "exe": "/tmp/x\u001b[2J",
        "cmdline": ["./x"],
        "cwd": "/",
        "user": "u",
        "ancestors": [{"pid": 1, "exe": "/bin/bash", "cmdline": ["bash"]}],
    },
    "flow": {"local": "10.0.0.1:5000", "remote": "[fd00::1]:3333", "domain": None, "initiated": True},
    "event": {"Protocol": "stratum", "Role": "client"},
    "evidence": [3, 9],
    "completeness": {"state": "complete", "why": []},
}


def test_explain_shows_what_matched_and_the_evidence() -> None:
    result = run("explain", "-", "--number", 1, stdin=json.dumps(ALERT) + "\n{}\n")
    assert result.exit_code == 0
    assert "selection: Protocol eq 'stratum' matched 'stratum'" in result.stdout
    assert "evidence: records 3, 9 of the trace" in result.stdout
    assert "  1 '/bin/bash' 'bash'" in result.stdout


def test_explain_lets_nothing_of_an_agent_s_act_on_the_terminal() -> None:
    assert "\x1b" not in run("explain", "-", stdin=json.dumps(ALERT)).stdout


def test_explain_shows_the_chain_of_evidence_from_a_recording(folder: Path, tmp_path: Path) -> None:
    counting = RULE.replace("level: low", "name: shell\nlevel: low") + (
        "---\ntitle: Many shells\nid: 99999999-9999-4999-8999-999999999999\ncorrelation:\n"
        "  type: event_count\n  rules: shell\n  timespan: 1m\n  condition: {gte: 2}\n"
    )
    (folder / "shell.yml").write_text(counting)
    images = ["/bin/bash", "/bin/ls", "/bin/zsh"]
    events = [{"category": "process_creation", "fields": {"Image": image}} for image in images]
    recording = tmp_path / "events.ndjson"
    recording.write_text("".join(json.dumps(one) + "\n" for one in events))
    alert = {**ALERT, "rule": {"id": "99999999-9999-4999-8999-999999999999"}, "evidence": [1, 3]}
    result = run("explain", "-", "--rules", folder, "--trace", recording, stdin=json.dumps(alert))
    assert result.exit_code == 0
    told = [line for line in result.stdout.splitlines() if "record " in line or "matched" in line]
    assert told == [
        "record 1, process_creation: A shell",
        "    s: Image endswith 'sh' matched '/bin/bash'",
        "    s: Image endswith '/bash' matched '/bin/bash'",
        "record 3, process_creation: A shell",
        "    s: Image endswith 'sh' matched '/bin/zsh'",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 alerts"),
        ("{}", "no alert"),
        ("[", "no alert"),
        (json.dumps({**ALERT, "rule": {"id": "x"}}), "not among"),
    ],
)
def test_explain_of_something_else_fails(text: str, reason: str) -> None:
    result = run("explain", "-", stdin=text)
    assert result.exit_code == 1
    assert reason in result.output


def test_import_reports_each_rule_with_its_reason(folder: Path) -> None:
    (folder / "b.yml").write_text(
        RULE.replace("category: process_creation", "service: cron").replace("1111", "2222")
    )
    (folder / "c.yml").write_text(RULE.replace("condition: s", "condition: t").replace("1111", "3333"))
    (folder / "d.yml").write_text(
        RULE.replace("  s:\n", "  s:\n    - Hashes: x\n")
        .replace("    Image", "    - Image")
        .replace("1111", "4444")
    )
    result = run("import", folder)
    assert result.exit_code == 1
    assert "evaluated  A shell" in result.stdout
    assert "field Hashes: events of category process_creation have none" in result.stdout
    assert "service cron: agentwatch reads no service's log" in result.stdout
    assert f"broken     {folder / 'c.yml'}:9: the condition names 't'" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 evaluated, 1 partly, 1 refused, 1 broken"
    verdicts = [json.loads(line)["verdict"] for line in run("import", folder, "--json").stdout.splitlines()]
    assert sorted(verdicts) == ["broken", "evaluated", "partly", "refused"]


def test_the_shipped_rules_pass_their_samples() -> None:
    assert run("test", RULES).exit_code == 0
