"""The fold: rules change at the record that says so, and nowhere else."""

from __future__ import annotations

from typing import Any

from agentwatch.pipeline import Pipeline
from agentwatch.rules.engine import Engine
from agentwatch.rules.model import RuleSet
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import Type
from agentwatch.sources.base import Batch, BatchKind, Round
from tests.rules.helpers import rule, rules

SOCKETS = rules(
    rule(
        "s:\n  Family: 17\ncondition: s",
        "title: packet socket\nid: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a01",
        "socket_creation",
    )
)
LOSSES = rules(
    rule("s:\n  Lost|gte: 1\ncondition: s", "title: loss\nid: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a02", "loss")
)


def notes(*rows: tuple[Any, ...]) -> Round:
    return (Batch(BatchKind.NOTES, pack_notes(list(rows))),)


def seen(time: int, cookie: int) -> tuple[Any, ...]:
    return (Type.SOCKET_SEEN, time, 1, 100 + cookie, 7, cookie, 17, 3, 0, b"", 0, b"", 0, "open")


def loss(time: int, pid: int) -> tuple[Any, ...]:
    return (Type.LOSS, time, 1, pid, 7, 3, 5, "ring full")


def reload(time: int, content: bytes, digest: str = "d") -> tuple[Any, ...]:
    return (Type.RULES, time, 1, 0, 0, digest, content)


def titles(first: RuleSet, *rounds: Round, reloads: bool = True) -> tuple[list[str], Pipeline]:
    alerts: list[dict[str, Any]] = []
    pipeline = Pipeline(Engine(first), sinks=[alerts.append], reloads=reloads)
    for one in rounds:
        pipeline.process(one)
    pipeline.finish()
    return [alert["rule"]["title"] for alert in alerts], pipeline


def test_rules_change_between_two_records_of_a_round() -> None:
    batches = notes(seen(1, 1), loss(2, 5), reload(3, LOSSES.to_bytes()), seen(4, 2), loss(5, 6))
    found, pipeline = titles(SOCKETS, batches)
    assert found == ["packet socket", "loss"]
    assert pipeline.counters.unreadable == 0


def test_rules_named_without_content_are_those_in_force() -> None:
    assert titles(SOCKETS, notes(reload(1, b""), seen(2, 1)))[0] == ["packet socket"]


def test_who_brings_other_rules_keeps_them() -> None:
    assert titles(SOCKETS, notes(reload(1, LOSSES.to_bytes()), seen(2, 1)), reloads=False)[0] == [
        "packet socket"
    ]


def test_damaged_rules_are_counted_and_those_before_stay() -> None:
    found, pipeline = titles(SOCKETS, notes(reload(1, b"\x93nothing"), seen(2, 1)))
    assert found == ["packet socket"]
    assert pipeline.counters.unreadable == 1
