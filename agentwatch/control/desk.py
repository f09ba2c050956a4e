"""Answers what is asked about a session: who is watched, what they do, and pause, resume, kill.

It runs between two rounds of the session, so an answer is a snapshot, and costs what it shows:
rows are bounded, the newest first to stay.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentwatch import __version__
from agentwatch.clock import now
from agentwatch.control.protocol import ProtocolError
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.respond.outcome import Outcome
from agentwatch.session import Session
from agentwatch.sinks.alerts import endpoint, timestamp

ROWS: Final = 5000  # processes or flows in an answer
ALERTS_KEPT: Final = 1000
_LEVELS: Final = {"informational": 0, "low": 1, "medium": 4, "high": 10, "critical": 20}


@dataclass(slots=True)
class _Tally:
    """What alerts said of an agent. `risk` adds up their levels."""

    alerts: int = 0
    risk: int = 0
    last: str = ""
    pids: set[int] = field(default_factory=set)


class Desk:
    """One session's. `note_alert` is a sink of its pipeline."""

    def __init__(self, session: Session, clock_offset: int) -> None:
        self._session = session
        self._offset = clock_offset
        self._began = now()
        self._tallies: dict[str, _Tally] = {}
        self.alerts: deque[dict[str, Any]] = deque(maxlen=ALERTS_KEPT)
        self.alert_number = 0  # of the latest alert
        self._verbs: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
            "status": self._status,
            "agents": self._agents,
            "ps": self._ps,
            "flows": self._flows,
            "alerts": self._alerts,
            "pause": lambda arguments, who: self._act("pause", arguments, who),
            "resume": lambda arguments, who: self._act("resume", arguments, who),
            "kill": lambda arguments, who: self._act("kill", arguments, who),
        }

    def note_alert(self, alert: dict[str, Any]) -> None:
        """An alert was raised."""
        self.alerts.append(alert)
        self.alert_number += 1
        tally = self._tallies.setdefault(alert["agent"], _Tally())
        tally.alerts += 1
        tally.risk += _LEVELS[alert["rule"]["level"]]
        tally.last = alert["rule"]["title"]
        tally.pids.add(alert["process"]["pid"])

    def forget(self, agent: str) -> None:
        """An agent is watched no longer."""
        self._tallies.pop(agent, None)

    def answer(self, verb: str, arguments: Mapping[str, Any], who: str) -> Any:
        """The result of a verb, plain data. Raises `ProtocolError`."""
        answer = self._verbs.get(verb)
        if answer is None:
            raise ProtocolError("request", f"{verb} is not for here")
        return answer(arguments, who)

    def find(self, name: str) -> int | None:
        """The number of an agent; None where there is none of this name."""
        for number, watched in self._session.watch.agents.items():
            if watched.options.name == name:
                return number
        return None

    def number(self, name: str) -> int:
        """The number of an agent. Raises `ProtocolError`."""
        number = self.find(name)
        if number is not None:
            return number
        raise ProtocolError("unknown", f"there is no agent {name}: `agentwatch ps` lists them")

    def _wanted(self, arguments: Mapping[str, Any]) -> set[int]:
        name = arguments.get("agent")
        return set(self._session.watch.agents) if name is None else {self.number(name)}

    def _status(self, arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
        session = self._session
        counters, state = session.pipeline.counters, session.state
        lost: dict[str, int] = {}
        for agent in state.agents.values():
            for name, number in agent.lost.items():
                lost[name] = lost.get(name, 0) + number
        return {
            "version": __version__,
            "pid": os.getpid(),
            "kernel": platform.release(),
            "since": timestamp(self._began, self._offset),
            "rules": {"digest": state.rules_digest, "count": len(session.pipeline.rules.rules)},
            "agents": len(session.watch.agents),
            "records": counters.records,
            "events": counters.events,
            "alerts": counters.alerts,
            "lost": lost,
            "coverage": [
                {"probe": probe, "error": error, "cost": cost}
                for probe, error, cost in dict.fromkeys(state.coverage)
            ],
        }

    def _agents(self, arguments: Mapping[str, Any], who: str) -> list[dict[str, Any]]:
        living: dict[int, int] = {}
        for process in self._session.state.processes.all():
            if process.status is None:
                living[process.agent] = living.get(process.agent, 0) + 1
        flows: dict[int, list[Flow]] = {}
        for flow in self._session.state.flows.all():
            flows.setdefault(flow.agent, []).append(flow)
        return [
            self._agent(number, living.get(number, 0), flows.get(number, []))
            for number in self._session.watch.agents
        ]

    def _agent(self, number: int, processes: int, flows: list[Flow]) -> dict[str, Any]:
        watched = self._session.watch.agents[number]
        agent = self._session.state.agent(number)
        tally = self._tallies.get(watched.options.name, _Tally())
        return {
            "name": watched.options.name,
            "cgroup": watched.cgroup.name,
            "mode": watched.options.mode,
            "max_response": watched.options.max_response,
            "origin": watched.options.terms.origin if watched.options.terms else "",
            "state": agent.state,
            "since": timestamp(watched.began, self._offset),
            "processes": processes,
            "flows": sum(not flow.closed for flow in flows),
            "bytes_out": sum(flow.bytes_out for flow in flows),
            "bytes_in": sum(flow.bytes_in for flow in flows),
            "alerts": tally.alerts,
            "risk": tally.risk,
            "last_alert": tally.last,
            "lost": sum(agent.lost.values()),
            **_usage(watched.cgroup.path),
        }

    def _ps(self, arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
        wanted = self._wanted(arguments)
        found = [one for one in self._session.state.processes.all() if one.agent in wanted]
        found = [one for one in found if one.status is None] + [
            one for one in found if one.status is not None
        ]
        return {
            "processes": [self._process(process) for process in found[:ROWS]],
            "more": max(0, len(found) - ROWS),
        }

    def _process(self, process: Process) -> dict[str, Any]:
        agent = self._session.state.agent(process.agent)
        tally = self._tallies.get(agent.name)
        return {
            "agent": agent.name,
            "pid": process.pid,
            "parent": process.parent[0] if process.parent else None,
            "start_time": timestamp(process.start, self._offset),
            "user": self._session.state.user_name(process.uid),
            "exe": process.exe,
            "argv": list(process.argv),
            "cwd": process.cwd,
            "status": process.status,
            "markers": self._session.state.markers(process),
            "alerted": tally is not None and process.pid in tally.pids,
        }

    def _flows(self, arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
        wanted = self._wanted(arguments)
        found = [one for one in self._session.state.flows.all() if one.agent in wanted]
        return {"flows": [self._flow(flow) for flow in found[-ROWS:]], "more": max(0, len(found) - ROWS)}

    def _flow(self, flow: Flow) -> dict[str, Any]:
        return {
            "id": flow.cookie,
            "agent": self._session.state.agent(flow.agent).name,
            "pid": flow.owner[0],
            "protocol": flow.application or flow.transport,
            "transport": flow.transport,
            "local": endpoint(flow.local, flow.local_port),
            "remote": endpoint(flow.remote, flow.remote_port),
            "domain": flow.domain,
            "initiated": flow.initiated,
            "opened": timestamp(flow.opened, self._offset),
            "closed": timestamp(flow.closed, self._offset) if flow.closed else None,
            "bytes_out": flow.bytes_out,
            "bytes_in": flow.bytes_in,
        }

    def _alerts(self, arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
        name = arguments.get("agent")
        found = [alert for alert in self.alerts if name in (None, alert["agent"])]
        limit = arguments.get("limit", ALERTS_KEPT)
        return {"alerts": found[max(0, len(found) - limit) :], "last": self.alert_number}

    def _act(self, response: str, arguments: Mapping[str, Any], who: str) -> dict[str, Any]:
        number = self.number(arguments["agent"])
        reason = arguments.get("reason", "")
        begin = now()
        outcome = self._session.enforcer.by_hand(number, response, f"{who}: {reason}" if reason else who)
        if not outcome.done:
            raise ProtocolError("failed", f"{response}: {outcome.error}")
        return self._told(number, begin, outcome)

    def _told(self, number: int, begin: int, outcome: Outcome) -> dict[str, Any]:
        watched = self._session.watch.agents[number]
        return {
            "agent": watched.options.name,
            "response": outcome.response,
            "result": outcome.result,
            "processes": sum(1 for _ in watched.cgroup.processes()),
            "settled": bool(outcome.settled),
            "took_us": ((outcome.settled or now()) - begin) // 1000,
            "note": outcome.error,
        }


def _usage(path: Path) -> dict[str, int | None]:
    """CPU time in microseconds and memory in bytes, from the cgroup's own files; None where not told."""
    usage: dict[str, int | None] = {"cpu_us": None, "memory": None}
    try:
        stat = (path / "cpu.stat").read_text(encoding="ascii").split()
        usage["cpu_us"] = int(stat[stat.index("usage_usec") + 1])
    except (OSError, ValueError):
        pass
    with contextlib.suppress(OSError, ValueError):
        usage["memory"] = int((path / "memory.current").read_text(encoding="ascii"))
    return usage
