"""What a detector keeps of each agent apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from agentwatch.enrich.state import Agent

_T = TypeVar("_T")


class PerAgent(Generic[_T]):
    """One thing for each agent, made when it is first asked for.

    A number is given to one agent after the other: what was kept of the one before goes.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._kept: dict[int, tuple[Agent, _T]] = {}  # by number

    def known(self, agent: Agent) -> _T | None:
        """That of the agent, if it was made."""
        kept = self._kept.get(agent.number)
        return kept[1] if kept is not None and kept[0] is agent else None

    def of(self, agent: Agent) -> _T:
        """That of the agent."""
        kept = self._kept.get(agent.number)
        if kept is not None and kept[0] is agent:
            return kept[1]
        made = self._make()
        self._kept[agent.number] = agent, made
        return made
