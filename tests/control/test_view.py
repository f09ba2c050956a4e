"""What is told about a pipeline: explanations, heads of flows, latest events, GPUs, health."""

from __future__ import annotations

from typing import Any

import pytest

from agentwatch.control.protocol import VERBS, ProtocolError
from agentwatch.control.view import EVENTS_KEPT, TEXT_KEPT, View
from agentwatch.pipeline import Pipeline
from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import Type
from agentwatch.sources.base import Batch, BatchKind, Round
from tests.rules.helpers import rule, rules
from tests.tui.top.material import HELLO, at, notes, rounds, rule_set, run, say

COUNTED = "33333333-1111-4111-8111-111111111111"
BURST = f"""
title: Many programs
id: 44444444-1111-4111-8111-111111111111
level: high
correlation:
  type: event_count
  rules: [{COUNTED}]
  group-by: [Agent]
  timespan: 60s
  condition: {{gte: 3}}
"""


def view_of(ruleset: RuleSet, *folded: Round) -> View:
    alerts: list[dict[str, Any]] = []
    pipeline = Pipeline(Engine(ruleset), sinks=[alerts.append])
    view = View(pipeline, 0, lambda: [1])
    pipeline.tap = view.note_event
    for batches in folded:
        pipeline.process(batches)
    pipeline.finish()
    for alert in alerts:
        view.note_alert(alert)
    return view


@pytest.fixture(scope="module")
def view() -> View:
    return view_of(rule_set(), *rounds())


def test_every_verb_is_one_of_the_protocol(view: View) -> None:
    assert view.verbs.keys() <= VERBS.keys()
    assert not any(VERBS[verb].acts for verb in view.verbs)


def test_an_explanation_names_selection_field_and_value(view: View) -> None:
    numbers = view.answer("alerts", {})["numbers"]
    told = [view.answer("explain", {"number": number}) for number in numbers]
    details = {one["alert"]["rule"]["title"]: one["details"] for one in told}
    (mines,) = details["Mines"]
    assert (mines["selection"], mines["field"], mines["op"], mines["wanted"]) == (
        "words", "CommandLine", "contains", "mine",
    )  # fmt: skip
    assert mines["found"] == "mine --fast"
    assert details["Connects"][0]["field"] == "DestinationPort"


def test_an_alert_of_a_correlation_is_explained_by_what_it_counts() -> None:
    head = f"title: a program\nid: {COUNTED}"
    counted = rules(rule("words:\n  CommandLine|contains: mine\ncondition: words", head), BURST)
    folded = [run(f"mine {n}", 100 + n, at(n)) for n in range(3)]
    view = view_of(counted, notes((int(Type.AGENT), at(0), 1, 0, 0, "tester", "/t", 5, "monitor")), *folded)
    told = view.answer("explain", {"number": view.answer("alerts", {})["last"]})
    assert told["rule"]["correlation"]["condition"] == "gte 3"
    assert told["details"][0]["selection"] == "words"


def test_an_alert_that_nobody_remembers_is_not_explained(view: View) -> None:
    for number in (0, 99):
        with pytest.raises(ProtocolError, match="not remembered"):
            view.answer("explain", {"number": number})


def test_a_flow_has_the_head_of_what_each_side_said(view: View) -> None:
    flow = view.answer("flow", {"flow": "101"})
    assert bytes.fromhex(flow["head_out"]) == HELLO
    assert flow["head_in"] == ""
    assert flow["exe"] == "/bin/job"


@pytest.mark.parametrize("flow", ["", "x", "7", "²", "-1", "9" * 4000])
def test_any_text_is_a_flow_or_an_error(view: View, flow: str) -> None:
    with pytest.raises(ProtocolError, match="not remembered"):
        view.answer("flow", {"flow": flow})


def test_the_latest_events_of_each_category_are_kept() -> None:
    many = [run(f"job {n}", 200 + n, at(10) + n) for n in range(EVENTS_KEPT + 50)]
    view = view_of(rule_set(), *rounds(), *many)
    told = view.answer("recent", {"limit": 10_000})
    assert sum(one["category"] == "process_creation" for one in told["events"]) == EVENTS_KEPT
    assert [one["number"] for one in told["events"]] == sorted(one["number"] for one in told["events"])
    connections = view.answer("recent", {"category": "network_connection"})["events"]
    assert [one["fields"]["DestinationPort"] for one in connections] == [3333, 4444]
    assert view.answer("recent", {"limit": 1})["events"][0]["fields"]["CommandLine"] == many_last(view)
    assert view.answer("recent", {"agent": "nobody"})["events"] == []


def many_last(view: View) -> str:
    return str(view.answer("recent", {})["events"][-1]["fields"]["CommandLine"])


def test_a_long_command_line_is_not_kept_whole() -> None:
    view = view_of(rule_set(), run("x" * 50_000, 100, at(1)))
    (event,) = view.answer("recent", {})["events"]
    assert len(event["fields"]["CommandLine"]) == TEXT_KEPT
    ((_, _, fields),) = view._events["process_creation"]
    assert sum(len(str(value)) for value in fields.values()) < 3 * TEXT_KEPT


def test_gpus_and_who_uses_them() -> None:
    agent = notes((int(Type.AGENT), at(0), 1, 0, 0, "tester", "/t", 5, "monitor"))
    device = (int(Type.GPU_DEVICE), at(1), 0, 0, 0, "u-1", "0", "H100", "", -1, 80 << 30, "1")
    sample = (int(Type.GPU_SAMPLE), at(2), 0, 0, 0, "u-1", 97, 10, -1, 1 << 30, 300_000, 60, -1, -1, 1)
    use = (int(Type.GPU_USE), at(2), 0, 100, 0, "u-1", 97, 10, -1, -1, 1 << 30)
    view = view_of(rule_set(), agent, run("train", 100, at(1)), notes(device), notes(sample), notes(use))
    told = view.answer("gpus", {})
    assert (told["gpus"][0]["percent"], told["gpus"][0]["encoder"]) == (97, None)
    (one,) = told["uses"]
    assert (one["agent"], one["pid"], one["percent"]) == ("tester", 100, 97)
    whole = {"on": ["0"], "percent": 97, "memory": 1 << 30}
    assert view.answer("agents", {})[0]["gpu"] == whole
    assert [one["gpu"] for one in view.answer("ps", {})["processes"]] == [whole]


def test_a_share_that_no_driver_tells_is_none_and_the_instance_is_named() -> None:
    agent = notes((int(Type.AGENT), at(0), 1, 0, 0, "tester", "/t", 5, "monitor"))
    device = (int(Type.GPU_DEVICE), at(1), 0, 0, 0, "m-1", "0/1", "MIG", "u-1", 1, 10 << 30, "1")
    sample = (int(Type.GPU_SAMPLE), at(2), 0, 0, 0, "m-1", -1, -1, -1, 1 << 30, -1, -1, -1, -1, 1)
    use = (int(Type.GPU_USE), at(2), 0, 100, 0, "m-1", -1, -1, -1, -1, 1 << 30)
    view = view_of(rule_set(), agent, run("train", 100, at(1)), notes(device), notes(sample), notes(use))
    assert view.answer("ps", {})["processes"][0]["gpu"] == {
        "on": ["0/1"], "percent": None, "memory": 1 << 30,
    }  # fmt: skip


def test_health_tells_losses_by_agent_and_kind(view: View) -> None:
    told = view.answer("health", {})
    assert told["lost"] == [{"agent": "tester", "what": "exec", "count": 7}]
    assert told["unreadable"] == 0


def test_rows_are_bounded_by_what_is_asked_for(view: View) -> None:
    assert len(view.answer("ps", {"limit": 1})["processes"]) == 1
    assert view.answer("ps", {"limit": 1})["more"] == 3
    flows = view.answer("flows", {"limit": 1})
    assert ([flow["id"] for flow in flows["flows"]], flows["more"]) == ([102], 1)


def test_the_head_of_a_flow_is_bounded_and_does_not_begin_again() -> None:
    view = view_of(rule_set(), *rounds(), *(say(101, at(9), b"A" * 700) for _ in range(5)))
    assert len(view.answer("flow", {"flow": "101"})["head_out"]) == 2 * 1024


def test_damaged_records_are_told() -> None:
    view = view_of(rule_set(), (Batch(BatchKind.RECORDS, b"\x01"),))
    assert view.answer("health", {})["unreadable"] == 1
