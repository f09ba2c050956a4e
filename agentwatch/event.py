"""The matchable event: what detectors and rules see.

Source records (see `agentwatch.schema`) are folded into events by enrichment and
detection. An event belongs to a Sigma logsource category and carries the fields that
rules of this category may name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Union

Value = Union[str, int, float, bool, None, tuple[str, ...], tuple[int, ...]]


class Event:
    """One fact in the words of the rules.

    `category` is the Sigma logsource category (`process_creation`, `network_connection`,
    `file_event`, `dns_query`, or one of agentwatch's own, such as `flow`). `time` is in
    nanoseconds since boot (CLOCK_BOOTTIME): event time, never the clock of the machine
    that evaluates. `seq` is the sequence number of the decisive source record. `agent` is
    the agent's name. `truncated` names fields whose value is known to be cut: a rule over
    them is undecided rather than unmatched. `fields` may be made as they are asked for, from what
    is known then: who keeps an event copies them.
    """

    __slots__ = ("agent", "category", "fields", "seq", "time", "truncated")

    def __init__(
        self,
        category: str,
        time: int,
        seq: int,
        agent: str,
        fields: Mapping[str, Value],
        truncated: frozenset[str] = frozenset(),
    ) -> None:
        self.category = category
        self.time = time
        self.seq = seq
        self.agent = agent
        self.fields = fields
        self.truncated = truncated
