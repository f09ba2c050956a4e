"""From records to alerts: what acts, what waits for it, what is said where something is missing."""

from __future__ import annotations

from typing import Any

import pytest

from agentwatch.pipeline import Pipeline
from agentwatch.respond.decide import Decision
from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from agentwatch.schema import decode
from agentwatch.schema.events import Piece, Type
from agentwatch.schema.layout import HEADER_SIZE
from agentwatch.sinks.alerts import encode
from agentwatch.sources.base import Batch, BatchKind, Round
from tests.rules.helpers import rule, rules
from tests.schema.records import raw

PAUSE = "11111111-1111-4111-8111-111111111111"
ALERT = "22222222-1111-4111-8111-111111111111"
OTHER = "33333333-1111-4111-8111-111111111111"


def head(id: str, level: str, response: str = "alert") -> str:
    return f"title: rule {id[0]}\nid: {id}\nlevel: {level}\nagentwatch:\n  response: {response}"


def of_miner(id: str = PAUSE, level: str = "high", response: str = "pause") -> str:
    return rule("s:\n  CommandLine|contains: mine\ncondition: s", head(id, level, response))


def records(*content: bytes) -> Batch:
    return Batch(BatchKind.RECORDS, b"".join(content))


def notes(*rows: tuple[Any, ...]) -> Batch:
    return Batch(BatchKind.NOTES, decode.pack_notes(list(rows)))


def agent(mode: str) -> Batch:
    return notes((int(Type.AGENT), 1, 1, 0, 0, "tester", "/t", 5, mode))


def run(argv: str, *, tgid: int = 100, time: int = 1000, cut: bool = False) -> Batch:
    """An exec with its pieces; with `cut` its argv is longer than what came of it."""
    words = argv.encode().replace(b" ", b"\0") + b"\0"
    return records(
        raw("exec_piece", tgid=tgid, time=time, kind=Piece.EXE, length=5, data=b"x\0bin\0"),
        raw("exec_piece", tgid=tgid, time=time, kind=Piece.CWD, length=4, data=b"tmp\0"),
        raw("exec_piece", tgid=tgid, time=time, kind=Piece.ARGV, length=len(words), data=words),
        raw("exec", tgid=tgid, time=time, argv_length=len(words) + cut, uid=5),
    )


def acted(seq: int, id: str = PAUSE, result: str = "done", error: str = "", at: int = 8000) -> Batch:
    return notes((int(Type.ACTION), 9000, 1, 0, 0, seq, id, "pause", result, error, at, at))


class Acts:
    """An actuator that only remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, str]] = []

    def act(self, decision: Decision) -> None:
        self.asked.append((decision.seq, decision.rule.id, decision.response))


def fold(ruleset: RuleSet, *rounds: Round) -> tuple[list[dict[str, Any]], Acts, Pipeline]:
    alerts: list[dict[str, Any]] = []
    acts = Acts()
    pipeline = Pipeline(Engine(ruleset), actuator=acts, sinks=[alerts.append])
    for one in rounds:
        pipeline.process(one)
    return alerts, acts, pipeline


MINER = rules(of_miner())


def test_an_alert_that_acts_waits_for_the_record_of_the_act() -> None:
    before, acts, _ = fold(MINER, (agent("enforce"), run("mine")))
    assert (before, acts.asked) == ([], [(5, PAUSE, "pause")])
    (alert,), acts, _ = fold(MINER, (agent("enforce"), run("mine")), (acted(5),))
    assert len(acts.asked) == 1
    assert (alert["response"], alert["acted"], alert["error"], alert["latency_us"]) == (
        "pause",
        "pause",
        None,
        7,
    )
    assert alert["evidence"] == [5]


def test_what_does_not_act_does_not_wait_for_what_does() -> None:
    both = rules(of_miner(), of_miner(ALERT, "low", "alert"))
    alerts, _, _ = fold(
        both, (agent("enforce"), run("mine")), (acted(5), run("mine", tgid=200, time=10_000)), (acted(10),)
    )
    assert [(alert["rule"]["id"], alert["process"]["pid"]) for alert in alerts] == [
        (ALERT, 100),
        (PAUSE, 100),
        (ALERT, 200),
        (PAUSE, 200),
    ]


def test_a_decision_without_a_record_is_told_after_the_next_round() -> None:
    alerts, _, pipeline = fold(MINER, (agent("enforce"), run("mine")))
    pipeline.process((run("ls", tgid=200),))
    assert [(alert["response"], alert["acted"], alert["latency_us"]) for alert in alerts] == [
        ("pause", "none", None)
    ]
    pipeline.process((acted(5),))
    assert len(alerts) == 1


def test_a_decision_without_a_record_is_told_at_the_end() -> None:
    alerts, _, pipeline = fold(MINER, (agent("enforce"), run("mine")))
    pipeline.finish()
    assert [(alert["response"], alert["acted"]) for alert in alerts] == [("pause", "none")]


def test_an_act_that_failed_was_not_done_and_says_why() -> None:
    (alert,), _, pipeline = fold(
        MINER, (agent("enforce"), run("mine")), (acted(5, result="failed", error="no such cgroup", at=0),)
    )
    assert (alert["acted"], alert["error"], alert["latency_us"]) == ("none", "no such cgroup", None)
    assert pipeline.state.agent(1).state == "running"


def test_the_strongest_of_several_responses_comes_first() -> None:
    three = rules(of_miner(), of_miner(ALERT, "low", "alert"), of_miner(OTHER, "high", "kill"))
    _, acts, _ = fold(three, (agent("enforce"), run("mine")))
    assert acts.asked == [(5, OTHER, "kill"), (5, PAUSE, "pause")]


def test_what_was_done_may_be_less_than_what_was_decided() -> None:
    killer = rules(of_miner(response="kill"))
    (alert,), _, pipeline = fold(killer, (agent("enforce"), run("mine")), (acted(5),))
    assert (alert["response"], alert["acted"]) == ("kill", "pause")
    assert pipeline.state.agent(1).state == "paused"


def test_what_was_held_was_not_done_and_says_why() -> None:
    (alert,), _, pipeline = fold(
        MINER, (agent("enforce"), run("mine")), (acted(5, result="held", error="it is paused", at=0),)
    )
    assert (alert["acted"], alert["error"], alert["latency_us"]) == ("none", "it is paused", None)
    assert pipeline.state.agent(1).state == "running"


def test_the_next_agent_of_a_number_starts_anew() -> None:
    lost = notes((int(Type.LOSS), 2, 1, 0, 0, int(Type.EXEC), 5, "ring full"))
    alerts, _, pipeline = fold(
        MINER, (agent("enforce"), lost, run("mine")), (acted(6),), (agent("enforce"), run("mine", tgid=200))
    )
    pipeline.finish()
    assert [alert["completeness"]["state"] for alert in alerts] == ["partial", "complete"]
    assert pipeline.state.agent(1).state == "running"


def test_what_was_lost_of_all_is_on_every_alert() -> None:
    lost = notes((int(Type.LOSS), 2, 0, 0, 0, 0, 5, "not recorded"))
    (alert,), _, _ = fold(MINER, (agent("monitor"), lost, run("mine")))
    assert alert["completeness"]["state"] == "partial"


def test_monitor_mode_never_acts() -> None:
    (alert,), acts, _ = fold(MINER, (agent("monitor"), run("mine")))
    assert acts.asked == []
    assert (alert["response"], alert["acted"], alert["mode"]) == ("pause", "none", "monitor")


def test_an_undecided_verdict_never_acts() -> None:
    (alert,), acts, _ = fold(MINER, (agent("enforce"), run("x", cut=True)))
    assert acts.asked == []
    assert (alert["verdict"], alert["response"], alert["undecided"]) == ("undecided", "alert", [PAUSE])
    assert alert["completeness"] == {"state": "partial", "why": ["Argv cut short", "CommandLine cut short"]}


def test_what_one_event_leaves_undecided_is_told_in_one_alert() -> None:
    three = rules(of_miner(ALERT, "low"), of_miner(PAUSE, "high"), of_miner(OTHER, "high"))
    alerts, _, _ = fold(three, (agent("enforce"), run("x", cut=True)))
    assert [(alert["rule"]["id"], alert["undecided"]) for alert in alerts] == [(PAUSE, [PAUSE, ALERT, OTHER])]


def test_what_matches_all_the_same_is_told_on_its_own() -> None:
    image = rule("s:\n  Image|endswith: /x\ncondition: s", head(OTHER, "medium"))
    alerts, _, _ = fold(rules(of_miner(), image), (agent("monitor"), run("x", cut=True)))
    assert [(alert["verdict"], alert["rule"]["id"], alert["undecided"]) for alert in alerts] == [
        ("match", OTHER, []),
        ("undecided", PAUSE, [PAUSE]),
    ]


def test_one_cause_speaks_once() -> None:
    connect: dict[str, Any] = {
        "family": 2,
        "socktype": 1,
        "protocol": 6,
        "remote": b"\x0a\0\0\2",
        "remote_port": 22,
    }
    found = rules(rule("s:\n  DestinationPort: 22\ncondition: s", head(ALERT, "low"), "network_connection"))
    slots = [raw("connect", time=time, cookie=cookie, **connect) for time, cookie in ((1, 7), (2, 7), (3, 8))]
    alerts, _, _ = fold(found, (Batch(BatchKind.SLOTS, b"".join(slots)),))
    assert [alert["evidence"] for alert in alerts] == [[1], [3]]


@pytest.mark.parametrize(
    "damaged",
    [
        Batch(BatchKind.SLOTS, bytes(100)),
        Batch(BatchKind.RECORDS, bytes(7)),
        Batch(BatchKind.NOTES, b"\xc1"),
        Batch(
            BatchKind.RECORDS,
            HEADER_SIZE.to_bytes(8, "little") + raw("exec")[8 : 8 + HEADER_SIZE] + bytes(-HEADER_SIZE % 8),
        ),
    ],
)
def test_what_cannot_be_read_is_counted_and_said(damaged: Batch) -> None:
    (alert,), _, pipeline = fold(MINER, (agent("monitor"),), (damaged,), (run("mine"),))
    assert pipeline.counters.unreadable == 1
    assert alert["completeness"] == {"state": "partial", "why": ["1 unreadable events lost"]}


def test_a_replay_says_the_same_as_the_recording_and_does_nothing() -> None:
    rounds = (
        (agent("enforce"), run("mine")),
        (acted(5), run("mine more", tgid=200, time=10_000)),
        (acted(10),),
    )
    live, _, _ = fold(MINER, *rounds)
    replayed: list[dict[str, Any]] = []
    pipeline = Pipeline(Engine(MINER), sinks=[replayed.append])
    for one in rounds:
        pipeline.process(one)
    assert list(map(encode, replayed)) == list(map(encode, live))
    assert [alert["acted"] for alert in live] == ["pause", "pause"]


def test_a_replay_under_other_rules_says_what_they_would_have_done() -> None:
    recorded = ((agent("enforce"), run("mine")), (acted(5, id=ALERT),))
    alerts, _, pipeline = fold(MINER, *recorded)
    pipeline.finish()
    assert [(alert["rule"]["id"], alert["response"], alert["acted"]) for alert in alerts] == [
        (PAUSE, "pause", "none")
    ]


def test_rules_over_the_arguments_of_auditd_match_an_exec() -> None:
    detection = "s:\n  type: EXECVE\n  a0: zip\n  a1|startswith: '-r'\nu:\n  uid: 5\ncondition: s and u"
    audit = rule(detection, head(ALERT, "low")).replace("category: process_creation", "service: auditd")
    alerts, _, _ = fold(rules(audit), (run("zip -r9 x"), run("zip x -r9", tgid=200)))
    assert [alert["process"]["argv"] for alert in alerts] == [["zip", "-r9", "x"]]
    assert "Argv" not in alerts[0]["event"]
    assert alerts[0]["event"]["UserId"] == 5
