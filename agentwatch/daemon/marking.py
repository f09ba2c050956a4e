"""Markers on the daemon's agents: from operators, from files, and from the agents themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agentwatch.clock import now
from agentwatch.enrich.markers import CLAIMED
from agentwatch.markers import check
from agentwatch.schema.events import Type
from agentwatch.session import Session

RATE: Final = 100  # markers a second that an agent may set itself
WAITING: Final = 256  # files whose agent is not there yet
_SECOND: Final = 1_000_000_000


@dataclass(slots=True)
class _Account:
    second: int = 0
    taken: int = 0
    refused: int = 0


class Marking:
    """Has markers recorded. What an agent says beyond its rate is counted as lost."""

    def __init__(self, session: Session, say: Callable[[str], None]) -> None:
        self._session, self._say = session, say
        self._accounts: dict[int, _Account] = {}
        self._waiting: dict[str, Mapping[str, str]] = {}

    def by_process(self, pid: int, for_agent: bool, markers: Mapping[str, str]) -> None:
        """A process speaks for itself or its agent. One that is no agent's has nothing to say."""
        process = self._session.state.processes.living(pid)
        if process is None or process.agent not in self._session.watch.agents:
            return
        account = self._accounts.setdefault(process.agent, _Account())
        self._renew(process.agent, account)
        if account.taken + len(markers) > RATE:
            account.refused += len(markers)
            return
        account.taken += len(markers)
        self._session.mark(process.agent, markers, CLAIMED, (0, 0) if for_agent else process.key)

    def _renew(self, agent: int, account: _Account) -> None:
        second = now() // _SECOND
        if second == account.second:
            return
        if account.refused:
            reason = f"more than {RATE} markers a second"
            self._session.source.note(Type.LOSS, agent, int(Type.MARKER), account.refused, reason)
        account.second, account.taken, account.refused = second, 0, 0

    def by_file(self, name: str, markers: Mapping[str, str]) -> None:
        """A file was written. It may be there before its agent is."""
        if len(self._waiting) < WAITING or name in self._waiting:
            self._waiting[name] = markers
            self.tend()
        else:
            self._say(f"too many files of markers wait for their agents; {name!r} is left out")

    def by_hand(self, agent: int, markers: Mapping[str, str], who: str) -> None:
        """An operator's. Raises `ValueError`."""
        check(markers)
        self._session.mark(agent, markers, who)

    def tend(self) -> None:
        """To be called now and then."""
        agents = self._session.watch.agents
        for number, watched in agents.items() if self._waiting else ():
            if (markers := self._waiting.pop(watched.options.name, None)) is not None:
                self._session.mark(number, markers, "file")
        for number, account in list(self._accounts.items()):
            if number not in agents:
                del self._accounts[number]
            else:
                self._renew(number, account)
