"""An event with what it is about, so that a verdict over it can be told and acted on."""

from __future__ import annotations

from collections.abc import Mapping

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.enrich.state import Agent
from agentwatch.event import Event, Value


class Sighting(Event):
    """An event of an agent's process and, where one is concerned, of a flow."""

    __slots__ = ("flow", "process", "subject")

    def __init__(
        self,
        category: str,
        time: int,
        seq: int,
        fields: Mapping[str, Value],
        truncated: frozenset[str],
        subject: Agent,
        process: Process,
        flow: Flow | None = None,
    ) -> None:
        super().__init__(category, time, seq, subject.name, fields, truncated)
        self.subject = subject
        self.process = process
        self.flow = flow
