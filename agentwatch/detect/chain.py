"""placeholder"""

from __future__ import annotations

from agentwatch.enrich.facts import Facts


class Chain:
    def __init__(self, state, wanted, request):
        self._facts = Facts(state, wanted)

    def of(self, change):
        e = self._facts.of(change)
        return [e] if e else []
