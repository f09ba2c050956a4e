"""What the core measures of itself, for the front to tell: cheap, and once a second."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from agentwatch import __version__
from agentwatch.clock import now
from agentwatch.kernel import bpf
from agentwatch.kernel.bpf import BpfError, Handle
from agentwatch.rules.levels import LEVELS
from agentwatch.schema.events import BY_NUMBER, HOST
from agentwatch.session import Session
from agentwatch.sinks.metrics import resident_bytes

INTERVAL_NS: Final = 1_000_000_000
SCRAPED_NS: Final = 120_000_000_000  # after a scrape the kernel times the probes for so long
_STATES: Final = ("running", "blocked", "paused", "killed")


class Meter:
    """One session's. `probe_times` says when the kernel times the probes: always, scraped or never."""

    def __init__(self, session: Session, probe_times: str = "scraped") -> None:
        self.probe_times = probe_times
        self._session = session
        self._alerts: Counter[str] = Counter()
        self._newest = 0
        self._lag = 0
        self._next = 0
        self._timing: Handle | None = None
        self._timed_until = 0
        self._untimed = False  # this kernel keeps no such statistics

    def note_alert(self, level: str) -> None:
        """An alert was raised."""
        self._alerts[level] += 1

    def note_scrape(self) -> None:
        """Somebody reads the metrics: programs are timed for a while."""
        self._timed_until = now() + SCRAPED_NS

    def after_round(self) -> None:
        """A round was folded, or none came."""
        newest = self._session.pipeline.counters.newest
        if newest != self._newest:
            self._newest = newest
            self._lag = max(self._lag, now() - newest)

    def due(self) -> bool:
        """Whether it is time to tell again."""
        return now() >= self._next

    def samples(self, backlog: int, dropped: int) -> dict[str, list[list[Any]]]:
        """See `agentwatch.sinks.metrics`. `backlog` and `dropped` are those of the link to the front."""
        moment = now()
        self._next = moment + INTERVAL_NS
        self._tend_timing(moment)
        session, counters = self._session, self._session.pipeline.counters
        lag, self._lag = self._lag, 0
        states = Counter(session.state.agent(number).state for number in session.watch.agents)
        fill = session.source.fill()
        return {
            "agentwatch_info": [[__version__, session.state.rules_digest[:12], 1]],
            "agentwatch_agents": [[state, states[state]] for state in _STATES],
            "agentwatch_records_total": [[counters.records]],
            "agentwatch_events_total": [[counters.events]],
            "agentwatch_alerts_total": [[level, self._alerts[level]] for level in LEVELS],
            "agentwatch_lost_total": self._lost(),
            "agentwatch_missing_probes": [[len(session.probes.missing)]],
            "agentwatch_lag_seconds": [[lag / 1e9]],
            "agentwatch_newest_record_age_seconds": [[(moment - self._newest) / 1e9 if self._newest else 0]],
            "agentwatch_ring_fill_ratio": [[ring, round(ratio, 6)] for ring, ratio in fill.items()],
            "agentwatch_link_backlog_bytes": [[backlog]],
            "agentwatch_link_dropped_total": [[dropped]],
            "agentwatch_resident_memory_bytes": [["core", resident_bytes()]],
            **self._programs(),
        }

    def _lost(self) -> list[list[Any]]:
        """Of all agents, also those that are watched no longer."""
        told = [
            [BY_NUMBER[number].name, lost] for number, _, lost in self._session.probes.counts(HOST) if lost
        ]
        return [*told, ["unreadable", self._session.pipeline.counters.unreadable]]

    def _tend_timing(self, moment: int) -> None:
        wanted = self.probe_times == "always" or (
            self.probe_times == "scraped" and moment < self._timed_until
        )
        if self._timing is not None and not wanted:
            self.close()
        elif self._timing is None and wanted and not self._untimed:
            try:
                self._timing = bpf.enable_stats()
            except BpfError:
                self._untimed = True

    def _programs(self) -> dict[str, list[list[Any]]]:
        """Once they were timed the counts are told for ever, for a counter may stand but not vanish."""
        if self._timing is None and not self._timed_until:
            return {}
        times: list[list[Any]] = []
        runs: list[list[Any]] = []
        for name, info in self._session.probes.programs():
            times.append([name, info.run_time_ns / 1e9])
            runs.append([name, info.run_count])
        return {"agentwatch_program_run_seconds_total": times, "agentwatch_program_runs_total": runs}

    def close(self) -> None:
        """Have the kernel time programs no longer."""
        if self._timing is not None:
            self._timing.close()
            self._timing = None
