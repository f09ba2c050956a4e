"""Explanations: which selection matched which value, and nothing that did not."""

from __future__ import annotations

from agentwatch.rules.engine import Engine
from agentwatch.rules.explain import EXCERPT, explain_alert
from tests.rules.helpers import event, rule, rules

DETECTION = """
img:
  Image|endswith: ['/bash', '/zsh']
cli:
  - CommandLine|contains: ['curl', 'wget']
  - CommandLine|re: 'n[c]at'
user:
  User: root
condition: img and (cli or user)
"""


def test_only_what_matched_is_named() -> None:
    (match,) = Engine(rules(rule(DETECTION))).evaluate(
        event(Image="/bin/zsh", CommandLine="wget x", User="me")
    )
    assert [(one.selection, one.field, one.op, one.wanted, one.found) for one in match.details] == [
        ("img", "Image", "endswith", "/zsh", "/bin/zsh"),
        ("cli", "CommandLine", "contains", "wget", "wget x"),
    ]


def test_what_is_undecided_is_told_apart() -> None:
    of = event(Image="/bin/zsh", CommandLine="x", truncated=["CommandLine"])
    (match,) = Engine(rules(rule(DETECTION))).evaluate(of)
    assert [(one.selection, one.wanted, one.undecided) for one in match.details] == [
        ("img", "/zsh", False),
        ("cli", "curl", True),
        ("cli", "wget", True),
        ("cli", "/n[c]at/", True),
    ]


def test_of_a_long_value_the_part_that_matched_is_shown() -> None:
    of = event(Image="/bin/zsh", CommandLine="x" * 5000 + " wget " + "y" * 5000)
    (match,) = Engine(rules(rule(DETECTION))).evaluate(of)
    assert "wget" in match.details[1].found
    assert len(match.details[1].found) <= EXCERPT


def test_control_characters_are_shown_as_such() -> None:
    (match,) = Engine(rules(rule(DETECTION))).evaluate(event(Image="/\x1b[2J/zsh", User="root"))
    assert "\x1b" not in str(match.details[0])


def test_an_alert_is_explained_from_what_it_says() -> None:
    found = rules(
        rule("s:\n  DestinationIp|cidr: '10.0.0.0/8'\n  Image|endswith: sh\ncondition: s", category="flow")
    )
    alert = {
        "agent": "a",
        "process": {"exe": "/bin/sh", "cmdline": "sh -c ls", "argv": ["sh", "-c", "ls"], "ancestors": []},
        "flow": {"local": "[::1]:1", "remote": "10.0.0.1:22"},
        "event": {},
        "evidence": [5],
        "completeness": {"why": ["CommandLine cut short", "3 exec events lost"]},
    }
    assert [one.found for one in explain_alert(found.rules[0], alert)] == ["10.0.0.1", "/bin/sh"]
    alert["flow"] = {}
    assert explain_alert(found.rules[0], alert) == ()


def test_an_alert_tells_the_words_of_a_command() -> None:
    found = rules(rule("s:\n  CommandLine|contains: 'h -c'\n  Argv#2: ls\ncondition: s"))
    alert = {
        "agent": "a",
        "process": {"exe": "/bin/sh", "cmdline": "sh -c ls", "argv": ["sh", "-c", "ls"]},
        "evidence": [5],
        "completeness": {"why": []},
    }
    assert [one.found for one in explain_alert(found.rules[0], alert)] == ["sh -c ls", "ls"]
