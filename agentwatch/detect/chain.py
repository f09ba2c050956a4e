"""The detectors in their order: from a change of state to the events that rules see.

Facts come first (what the record says by itself), then what detectors make of bytes and
behaviour. A new detector is one class with `of(change) -> Iterable[Event]` in the table below.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from agentwatch.detect import ssh_argv, ssh_config
from agentwatch.detect.conversation import Conversation
from agentwatch.detect.finding import IN, OUT, Finding
from agentwatch.detect.remote_forward import RemoteForward
from agentwatch.enrich.facts import Facts, flow_fields, process_fields
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.enrich.state import Agent, Change, State
from agentwatch.event import Event, Value
from agentwatch.schema.events import SOCKET_BLOCK, Type

Request = Callable[[str, Change], None]


@dataclass(slots=True)
class Sighting(Event):
    """An event with what it is about, for the alert."""

    subject: Agent | None = None
    process: Process | None = None
    flow: Flow | None = None
