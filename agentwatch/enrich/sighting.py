"""An event with what it is about, so that a verdict over it can be told and acted on."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.enrich.state import Agent
from agentwatch.event import Event


@dataclass(slots=True)
class Sighting(Event):
    """An event of an agent's process and, where one is concerned, of a flow."""

    subject: Agent = field(kw_only=True)
    process: Process = field(kw_only=True)
    flow: Flow | None = field(default=None, kw_only=True)
