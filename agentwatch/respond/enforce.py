"""The actuator of a live session: freezes, thaws and kills agents' cgroups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agentwatch.clock import now
from agentwatch.kernel.cgroup import Cgroup
from agentwatch.kernel.errors import KernelError
from agentwatch.respond import cgroup as mechanics
from agentwatch.respond.decide import RESPONSES, Decision
from agentwatch.respond.outcome import Outcome
from agentwatch.schema.events import Type
from agentwatch.sources.kernel import KernelSource

_ACTS: dict[str, Callable[[Cgroup, int], Outcome]] = {
    "pause": mechanics.freeze,
    "kill": mechanics.kill,
    "resume": mechanics.thaw,
}


class Blocker(Protocol):
    """What has the kernel deny an agent things: the probes."""

    def block(self, agent: int, cgroup_id: int) -> None:
        """Raises `KernelError` where this kernel cannot."""

    def unblock(self, agent: int, cgroup_id: int) -> None:
        """Raises `KernelError`."""


@dataclass(slots=True)
class _Subject:
    cgroup: Cgroup
    max_response: str
    paused: bool
    blocked: bool = False


class Enforcer:
    """Acts on agents' cgroups, and hands what it did to the source as a record.

    What a rule asks for beyond an agent's `max_response` is done as that. An agent that is paused
    is not killed by a rule: it can do no more harm, and what to do with it is an operator's choice.
    A blocked one runs on, until an operator resumes it.
    """

    def __init__(self, source: KernelSource, blocker: Blocker) -> None:
        self._source = source
        self._blocker = blocker
        self._subjects: dict[int, _Subject] = {}

    def add(self, agent: int, cgroup: Cgroup, max_response: str = RESPONSES[-1]) -> None:
        """From now on this agent can be acted on."""
        self._subjects[agent] = _Subject(cgroup, max_response, cgroup.frozen())

    def cap(self, agent: int, max_response: str) -> None:
        """From now on no rule has more than this done to the agent."""
        self._subjects[agent].max_response = max_response

    def remove(self, agent: int) -> None:
        self._subjects.pop(agent, None)

    def act(self, decision: Decision) -> None:
        """Carry a rule's decision out."""
        subject = self._subjects.get(decision.agent.number)
        if subject is None:
            return  # it has ended, or is not watched any more
        response = min(decision.response, subject.max_response, key=RESPONSES.index)
        if subject.paused and response in ("block", "kill"):
            outcome = Outcome(response, "held", "it is paused: an operator resumes or kills it")
        elif response == "block":
            outcome = self._block(decision.agent.number, subject)
        elif response in _ACTS:
            outcome = self._do(decision.agent.number, subject, response, mechanics.SETTLE_NS)
        else:
            outcome = Outcome(response, "held", f"no more than {response} is allowed")
        self._tell(decision.agent.number, decision.seq, decision.rule.id, outcome)

    def by_hand(self, agent: int, response: str, who: str) -> Outcome:
        """What an operator asked for: pause, resume or kill. Raises `KeyError` for an unknown agent."""
        outcome = self._do(agent, self._subjects[agent], response, mechanics.PATIENT_NS)
        self._tell(agent, 0, who, outcome)
        return outcome

    def _do(self, agent: int, subject: _Subject, response: str, limit_ns: int) -> Outcome:
        if subject.blocked and response == "resume":
            try:
                self._blocker.unblock(agent, subject.cgroup.id)
            except KernelError as error:
                return Outcome(response, "failed", str(error))
            subject.blocked = False
        outcome = _ACTS[response](subject.cgroup, limit_ns)
        if outcome.done and response in ("pause", "resume"):
            subject.paused = response == "pause"
        return outcome

    def _block(self, agent: int, subject: _Subject) -> Outcome:
        """Denials are in force at once: when the kernel has been told, it is done."""
        already = subject.blocked
        try:
            self._blocker.block(agent, subject.cgroup.id)
        except KernelError as error:
            return Outcome("block", "failed", f"block is not available: {error}")
        subject.blocked = True
        acted = now()
        return Outcome("block", "already" if already else "done", "", acted, acted)

    def _tell(self, agent: int, seq: int, who: str, outcome: Outcome) -> None:
        self._source.note(Type.ACTION, agent, seq, who, *outcome)
