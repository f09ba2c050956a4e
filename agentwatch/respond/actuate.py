"""Actuators: what carries a decision out. One acts, the other only reports (replay, monitor)."""

from __future__ import annotations

from typing import Protocol

from agentwatch.respond.decide import Decision


class Actuator(Protocol):
    """Carries out decisions. Whatever it does comes back to the pipeline as a source record."""

    def act(self, decision: Decision) -> None:
        """Carry the decision out at once, before anything slow."""


class ReportingActuator:
    """Does nothing: in a replay what was done comes from the trace."""

    def act(self, decision: Decision) -> None:
        """Nothing."""
