"""From verdicts to decisions: what a rule asks for, what the agent's mode allows."""

from __future__ import annotations

from dataclasses import dataclass

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Agent
from agentwatch.rules.model import Rule

RESPONSES = ("none", "alert", "block", "pause", "kill")
ACTING = frozenset(("block", "pause", "kill"))
SAID_KEPT = 16384  # alerts remembered, so that one cause makes one alert


@dataclass(slots=True)
class Decision:
    """What a verdict leads to. `seq` is the decisive record, the identity of the decision with the rule.

    `undecided_rules` are the ids of all rules that the event leaves undecided, `rule` among them.
    """

    rule: Rule
    undecided: bool
    evidence: tuple[int, ...]
    event: Sighting
    response: str
    undecided_rules: tuple[str, ...] = ()

    @property
    def agent(self) -> Agent:
        return self.event.subject

    @property
    def process(self) -> Process:
        return self.event.process

    @property
    def flow(self) -> Flow | None:
        return self.event.flow

    @property
    def seq(self) -> int:
        return self.event.seq

    @property
    def acts(self) -> bool:
        """Whether something is to be done, not only said."""
        return self.response in ACTING and self.agent.mode == "enforce" and not self.undecided


class Decider:
    """One alert for one cause: the same rule over the same program and the same flow speaks once."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, Key, int, int, bool], None] = {}

    def is_new(self, rule: Rule, undecided: bool, process: Process, flow: Flow | None) -> bool:
        """Whether this verdict has not been told yet; remembers that it is told now."""
        key = (rule.id, process.key, process.exec_seq, flow.cookie if flow else 0, undecided)
        if key in self._said:
            return False
        self._said[key] = None
        if len(self._said) > SAID_KEPT:
            del self._said[next(iter(self._said))]
        return True
