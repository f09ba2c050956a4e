"""What a rule or an operator asks for, on real cgroups, and what is told of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from agentwatch.enrich.processes import Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Agent
from agentwatch.kernel.cgroup import create
from agentwatch.kernel.denials import DenialError
from agentwatch.respond.cgroup import kill
from agentwatch.respond.decide import Decision
from agentwatch.respond.enforce import Enforcer
from agentwatch.schema.events import Type
from tests.rules.helpers import rule, rules

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class Notes:
    """A source that keeps what it is told: (agent, response, result, error)."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str, str, str]] = []

    def note(self, type: Type, agent: int, *fields: Any, **_: Any) -> None:
        assert type is Type.ACTION
        response, result, error = fields[2:5]
        self.told.append((agent, response, result, error))


class Blocker:
    """A kernel that blocks, or one that cannot."""

    def __init__(self) -> None:
        self.able = True
        self.blocked: dict[int, int] = {}  # cgroups by agent

    def block(self, agent: int, cgroup_id: int) -> None:
        if not self.able:
            raise DenialError("bpf is not among the active LSMs")
        self.blocked[agent] = cgroup_id

    def unblock(self, agent: int, cgroup_id: int) -> None:
        assert self.blocked.pop(agent) == cgroup_id


class Tree:
    """A sleeping process as agent number 3, and the enforcer that acts on it."""

    def __init__(self, max_response: str = "kill") -> None:
        self.cgroup = create(f"test-enforce-{os.getpid()}")
        self.process = subprocess.Popen(["sleep", "600"])
        self.cgroup.move(self.process.pid)
        self.notes = Notes()
        self.blocker = Blocker()
        self.enforcer = Enforcer(self.notes, self.blocker)  # type: ignore[arg-type]
        self.enforcer.add(3, self.cgroup, max_response)

    def asks(self, response: str, agent: int = 3) -> None:
        """A rule decided this."""
        text = rule(
            "s:\n  Image: x\ncondition: s", f"title: t\nlevel: high\nagentwatch:\n  response: {response}"
        )
        subject = Agent(agent)
        event = Sighting("process_creation", 1, 7, {}, frozenset(), subject, Process(1, 1, agent))
        self.enforcer.act(Decision(rules(text).rules[0], False, (7,), event, response))

    def close(self) -> None:
        kill(self.cgroup)
        self.process.wait()
        self.cgroup.close()


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree()
    yield made
    made.close()


def test_a_paused_agent_is_not_killed_by_a_rule_but_by_hand(tree: Tree) -> None:
    tree.asks("pause")
    tree.asks("kill")
    assert tree.cgroup.frozen()
    assert [(response, result) for _, response, result, _ in tree.notes.told] == [
        ("pause", "done"),
        ("kill", "held"),
    ]
    assert "operator" in tree.notes.told[-1][3]
    assert tree.enforcer.by_hand(3, "kill", "root").result == "done"
    assert not tree.cgroup.populated()


def test_a_resumed_agent_can_be_killed_by_a_rule(tree: Tree) -> None:
    tree.asks("pause")
    tree.enforcer.by_hand(3, "resume", "root")
    tree.asks("kill")
    assert tree.notes.told[-1][1:3] == ("kill", "done")
    assert not tree.cgroup.populated()


def test_an_agent_that_was_frozen_before_counts_as_paused(tree: Tree) -> None:
    tree.enforcer.by_hand(3, "pause", "root")
    tree.enforcer.remove(3)
    tree.enforcer.add(3, tree.cgroup)
    tree.asks("kill")
    assert tree.notes.told[-1][1:3] == ("kill", "held")


def test_no_more_is_done_than_the_agent_allows() -> None:
    tree = Tree(max_response="pause")
    tree.asks("kill")
    assert tree.notes.told == [(3, "pause", "done", "")]
    assert tree.cgroup.frozen()
    tree.close()


def test_what_may_only_alert_is_not_acted_on() -> None:
    tree = Tree(max_response="alert")
    tree.asks("kill")
    assert tree.notes.told[-1][1:3] == ("alert", "held")
    assert tree.cgroup.populated() and not tree.cgroup.frozen()
    tree.close()


def test_an_agent_that_is_gone_is_not_acted_on(tree: Tree) -> None:
    tree.asks("kill", agent=4)
    assert tree.notes.told == []
    with pytest.raises(KeyError):
        tree.enforcer.by_hand(4, "kill", "root")
    assert tree.cgroup.populated()


def test_a_blocked_agent_runs_on_until_it_is_resumed(tree: Tree) -> None:
    tree.asks("block")
    tree.asks("block")
    assert [told[1:3] for told in tree.notes.told] == [("block", "done"), ("block", "already")]
    assert tree.blocker.blocked == {3: tree.cgroup.id}
    assert not tree.cgroup.frozen()
    assert tree.enforcer.by_hand(3, "resume", "root").result == "done"
    assert tree.blocker.blocked == {}
    tree.asks("kill")
    assert tree.notes.told[-1][1:3] == ("kill", "done")


def test_a_block_is_less_than_a_freeze(tree: Tree) -> None:
    tree.asks("pause")
    tree.asks("block")
    assert tree.notes.told[-1][1:3] == ("block", "held")
    tree.enforcer.cap(3, "block")
    tree.enforcer.by_hand(3, "resume", "root")
    tree.asks("kill")
    assert tree.notes.told[-1][1:3] == ("block", "done")
    assert tree.cgroup.populated() and not tree.cgroup.frozen()


def test_where_the_kernel_cannot_block_it_is_said(tree: Tree) -> None:
    tree.blocker.able = False
    tree.asks("block")
    assert tree.notes.told == [
        (3, "block", "failed", "block is not available: bpf is not among the active LSMs")
    ]
