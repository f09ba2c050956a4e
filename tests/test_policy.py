"""The fold: policies change at the record that says so, live and in a replay."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentwatch.replay import Order, Replay, line_of, recordings
from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import Type
from agentwatch.watch import AGENT, Terms
from tests.lab import needs_root
from tests.lab.watched import watched
from tests.rules.helpers import rule, rules
from tests.test_reload import LOSSES, SOCKETS, loss, notes, reload, seen, titles

LOSS_ID = "8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a02"
BOTH = RuleSet(rules=(*SOCKETS.rules, *LOSSES.rules), digest="both")
RUNS = rules(
    rule(
        "s:\n  Image|endswith: [/true, /echo]\ncondition: s",
        "title: runs\nid: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a03\nname: runs",
        "process_creation",
    )
)


def policy(time: int, agent: int = 1, only: Any = (), without: Any = (), mode: str = "monitor") -> Any:
    return (Type.POLICY, time, agent, 0, 0, "jobs", mode, "kill", only, without, (), "a test")


def test_rules_speak_as_the_policy_in_force_says() -> None:
    batches = notes(
        loss(1, 5),
        policy(2, without=(LOSS_ID,)),
        loss(3, 6),
        seen(4, 1),
        policy(5, only=(LOSS_ID,)),
        loss(6, 7),
        seen(7, 2),
        policy(8),
        seen(9, 3),
    )
    found, pipeline = titles(BOTH, batches)
    assert found == ["loss", "packet socket", "loss", "packet socket"]
    assert pipeline.state.agent(1).only == ()


def test_a_policy_is_one_agents_alone() -> None:
    assert titles(BOTH, notes(policy(1, agent=2, without=(LOSS_ID,)), loss(2, 5)))[0] == ["loss"]


def test_a_new_agent_of_the_number_begins_without_the_policy() -> None:
    begin = (Type.AGENT, 2, 1, 0, 0, "next", "next", 7, "monitor")
    assert titles(BOTH, notes(policy(1, without=(LOSS_ID,)), begin, loss(3, 5)))[0] == ["loss"]


def test_selection_is_that_of_the_rules_in_force() -> None:
    batches = notes(policy(1, only=(LOSS_ID,)), seen(2, 1), reload(3, BOTH.to_bytes()), loss(4, 5))
    assert titles(SOCKETS, batches)[0] == ["loss"]


@pytest.mark.parametrize(
    "fields", [("x",), ("x", "enforce", "kill", "no list", (), (), ""), (1, 2, 3, 4, 5, 6, 7)]
)
def test_a_damaged_policy_is_counted(fields: tuple[Any, ...]) -> None:
    found, pipeline = titles(BOTH, notes((Type.POLICY, 1, 1, 0, 0, *fields)), notes(loss(2, 5)))
    assert found == ["loss"]
    assert pipeline.counters.unreadable == 1


@needs_root
def test_a_replay_says_what_was_said_under_changing_policies(tmp_path: Path) -> None:
    trace = tmp_path / "policy.trace"
    script = "/bin/true; read go; /bin/echo; read go; /bin/true again; read end"
    quiet = Terms("jobs", without=("runs",), origin="a test")
    read, write = os.pipe()
    orders_of = f"exec </proc/{os.getpid()}/fd/{read}"
    with (
        os.fdopen(write, "w") as orders,
        watched(["sh", "-c", f"{orders_of}; {script}"], rules=RUNS,
                record=trace) as watch,
    ):  # fmt: skip
        watch.until("exit")
        options = watch.session.watch.agents[AGENT].options
        watch.session.set_policy(AGENT, replace(options, terms=quiet))
        watch.until("policy")
        print("go", file=orders, flush=True)
        watch.until("exit", 2)
        watch.session.set_policy(AGENT, replace(options, mode="enforce", terms=replace(quiet, without=())))
        watch.until("policy", 2)
        print("go", file=orders, flush=True)
        watch.until("exit", 3)
        print("end", file=orders, flush=True)
        watch.until_end()
        watch.session.finish()
        live = [line_of(alert) for alert in watch.alerts]
    os.close(read)
    assert [json.loads(line)["process"]["cmdline"] for line in live] == ["/bin/true", "/bin/true again"]
    assert [json.loads(line)["mode"] for line in live] == ["monitor", "enforce"]
    again: list[bytes] = []
    (recording,) = recordings([trace])
    Replay(recording, Order(), again.append, lambda done: None).run()
    assert again == live
