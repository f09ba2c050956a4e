"""A remote script run again and again: a network client whose output a shell does, three times over.

One such pipe is how software is installed. A loop of the same client's words below the same
process is an order taken from afar each time.
"""

from __future__ import annotations

import re
from typing import Final

from agentwatch.enrich.bounded import put
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process

ROUNDS: Final = 3
FED_KEPT: Final = 256
"""Shells remembered that a client feeds; the oldest goes first."""
COUNTS_KEPT: Final = 1024
"""Loops remembered; the one that turned longest ago goes first."""
_WORDS_LIMIT: Final = 512
_NUMBERS: Final = re.compile(r"[0-9]+")


class ScriptLoops:
    """Counts rounds by a process above the shell and the client's words (numbers apart)."""

    def __init__(self) -> None:
        self._fed: dict[Key, tuple[str, Flow] | None] = {}  # None once it works
        self._counts: dict[tuple[Key, str], int] = {}

    def fed(self, shell: Process, client: Process, flow: Flow) -> None:
        """A shell's input is what a client gets over a flow."""
        if shell.key in self._fed:
            return
        words = _NUMBERS.sub("0", client.command_line[:_WORDS_LIMIT])
        put(self._fed, shell.key, (words, flow), FED_KEPT)

    @property
    def waiting(self) -> bool:
        """Whether any shell is fed."""
        return bool(self._fed)

    def works(self, shell: Key, above: list[Process]) -> Flow | None:
        """A process runs a program below it: the flow, where it is a fed shell in its loop's ROUNDS-th round.

        `above` are the processes above it, from the parent upwards.
        """
        fed = self._fed.get(shell)
        if fed is None:
            return None
        self._fed[shell] = None
        words, flow = fed
        complete = False
        for one in above:
            count = self._counts.pop((one.key, words), 0) + 1
            put(self._counts, (one.key, words), count, COUNTS_KEPT)
            complete = complete or count == ROUNDS
        return flow if complete else None
