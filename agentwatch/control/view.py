"""Answers what is asked about a pipeline, live or in a replay: agents, processes, flows, alerts, events.

It runs between two rounds, so an answer is a snapshot, and costs what it shows: rows are bounded,
the newest first to stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentwatch import __version__
from agentwatch.control.protocol import VERBS, ProtocolError
from agentwatch.enrich.flows import Flow
from agentwatch.enrich.gpus import UNKNOWN, Gpu, GpuUse
from agentwatch.enrich.processes import Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.pipeline import Pipeline
from agentwatch.rules.explain import Detail, explain_alert
from agentwatch.rules.model import Rule
from agentwatch.sinks.alerts import endpoint, timestamp

ROWS: Final = 5000  # processes or flows in an answer
ALERTS_KEPT: Final = 1000
EVENTS_KEPT: Final = 256  # of each category
TEXT_KEPT: Final = 4096  # characters of a text of an event that is kept
_ATTRIBUTES: Final = 64  # facts about a flow in an answer
_LEVELS: Final = {"informational": 0, "low": 1, "medium": 4, "high": 10, "critical": 20}
_LONG: Final = ("CommandLine", "ParentCommandLine")

Arguments = Mapping[str, Any]


@dataclass(slots=True)
class _Tally:
    """What alerts said of an agent. `risk` adds up their levels."""

    alerts: int = 0
    risk: int = 0
    last: str = ""
    last_number: int = 0
    pids: set[int] = field(default_factory=set)


class View:
    """One pipeline's. `note_alert` is a sink of it, `note_event` its tap.

    `watched` gives the numbers of the agents that are told of, `clock_offset` is the wall clock's
    lead over event time in ns.
    """

    def __init__(self, pipeline: Pipeline, clock_offset: int, watched: Callable[[], Collection[int]]) -> None:
        self._pipeline = pipeline
        self._state = pipeline.state
        self._offset = clock_offset
        self._watched = watched
        self._tallies: dict[str, _Tally] = {}
        self._events: dict[str, deque[tuple[int, Sighting, Mapping[str, Any]]]] = {}
        self._event_number = 0
        self.alerts: deque[dict[str, Any]] = deque(maxlen=ALERTS_KEPT)
        self.alert_number = 0  # of the latest alert
        self.verbs: dict[str, Callable[[Arguments], Any]] = {
            "status": self.status,
            "agents": self.agents,
            "ps": self.ps,
            "flows": self.flows,
            "flow": self.flow,
            "alerts": self.latest_alerts,
            "explain": self.explain,
            "recent": self.recent,
            "gpus": self.gpus,
            "health": self.health,
        }

    def note_alert(self, alert: dict[str, Any]) -> None:
        """An alert was raised."""
        self.alerts.append(alert)
        self.alert_number += 1
        tally = self._tallies.setdefault(alert["agent"], _Tally())
        tally.alerts += 1
        tally.risk += _LEVELS[alert["rule"]["level"]]
        tally.last = alert["rule"]["title"]
        tally.last_number = self.alert_number
        tally.pids.add(alert["process"]["pid"])

    def note_event(self, sighting: Sighting) -> None:
        """An event was seen by the rules."""
        self._event_number += 1
        kept = self._events.get(sighting.category)
        if kept is None:
            kept = self._events[sighting.category] = deque(maxlen=EVENTS_KEPT)
        kept.append((self._event_number, sighting, _bounded(sighting.fields)))

    def forget(self, agent: str) -> None:
        """An agent is watched no longer."""
        self._tallies.pop(agent, None)

    def answer(self, verb: str, arguments: Arguments) -> Any:
        """The result of a verb, plain data. Raises `ProtocolError`."""
        answer = self.verbs.get(verb)
        if answer is None:
            raise ProtocolError("request", f"{verb} is not for here")
        return answer(arguments)

    def find(self, name: str) -> int | None:
        """The number of an agent; None where there is none of this name."""
        for number in self._watched():
            if self._state.agent(number).name == name:
                return number
        return None

    def number(self, name: str) -> int:
        """The number of an agent. Raises `ProtocolError`."""
        number = self.find(name)
        if number is not None:
            return number
        raise ProtocolError("unknown", f"there is no agent {name}: `agentwatch ps` lists them")

    def _wanted(self, arguments: Arguments) -> set[int]:
        name = arguments.get("agent")
        return set(self._watched()) if name is None else {self.number(name)}

    def status(self, arguments: Arguments) -> dict[str, Any]:
        """The whole in a few numbers."""
        pipeline, state = self._pipeline, self._state
        counters = pipeline.counters
        lost: dict[str, int] = {}
        for agent in state.agents.values():
            for name, number in agent.lost.items():
                lost[name] = lost.get(name, 0) + number
        return {
            "version": __version__,
            "verbs": sorted(VERBS),
            "time": timestamp(pipeline.counters.newest, self._offset),
            "rules": {
                "digest": state.rules_digest or pipeline.rules.digest,
                "count": len(pipeline.rules.rules),
            },
            "agents": len(self._watched()),
            "records": counters.records,
            "events": counters.events,
            "alerts": counters.alerts,
            "lost": lost,
            "coverage": [
                {"probe": probe, "error": error, "cost": cost}
                for probe, error, cost in dict.fromkeys(state.coverage)
            ],
        }

    def health(self, arguments: Arguments) -> dict[str, Any]:
        """How complete and how late what is told is; losses by agent and kind of event."""
        return {
            "lost": [
                {"agent": agent.name, "what": name, "count": count}
                for _, agent in sorted(self._state.agents.items())
                for name, count in sorted(agent.lost.items())
            ],
            "unreadable": self._pipeline.counters.unreadable,
            "excepted": self._pipeline.excepted,
            "categories": {name: len(kept) for name, kept in sorted(self._events.items())},
        }

    def agents(self, arguments: Arguments) -> list[dict[str, Any]]:
        """The agents, a row each."""
        living: dict[int, int] = {}
        for process in self._state.processes.all():
            if process.status is None:
                living[process.agent] = living.get(process.agent, 0) + 1
        flows: dict[int, list[Flow]] = {}
        for flow in self._state.flows.all():
            flows.setdefault(flow.agent, []).append(flow)
        gpus: dict[int, list[GpuUse]] = {}
        for uses in self._state.gpus.current().values():
            gpus.setdefault(uses[0].process.agent, []).extend(uses)
        return [
            self._agent(number, living.get(number, 0), flows.get(number, []), gpus.get(number, []))
            for number in self._watched()
        ]

    def _agent(self, number: int, processes: int, flows: list[Flow], gpus: list[GpuUse]) -> dict[str, Any]:
        agent = self._state.agent(number)
        tally = self._tallies.get(agent.name, _Tally())
        return {
            "name": agent.name,
            "cgroup": agent.cgroup,
            "mode": agent.mode,
            "state": agent.state,
            "acted_by": self._who(agent.acted_by),
            "processes": processes,
            "flows": sum(not flow.closed for flow in flows),
            "bytes_out": sum(flow.bytes_out for flow in flows),
            "bytes_in": sum(flow.bytes_in for flow in flows),
            "gpu": _gpu_sum(gpus),
            "alerts": tally.alerts,
            "risk": tally.risk,
            "last_alert": tally.last,
            "last_alert_number": tally.last_number,
            "lost": sum(agent.lost.values()),
        }

    def _who(self, actor: str) -> str:
        """A rule's title where a rule acted."""
        rule = self._rule(actor)
        return f"rule {rule.title}" if rule else actor

    def _rule(self, rule_id: str) -> Rule | None:
        return next((rule for rule in self._pipeline.rules.rules if rule.id == rule_id), None)

    def ps(self, arguments: Arguments) -> dict[str, Any]:
        """Processes, those that live first."""
        wanted = self._wanted(arguments)
        found = [one for one in self._state.processes.all() if one.agent in wanted]
        found = [one for one in found if one.status is None] + [
            one for one in found if one.status is not None
        ]
        limit = arguments.get("limit", ROWS)
        gpus = self._state.gpus.current()
        return {
            "processes": [self._process(process, gpus.get(process.key, [])) for process in found[:limit]],
            "more": max(0, len(found) - limit),
        }

    def _process(self, process: Process, gpus: list[GpuUse]) -> dict[str, Any]:
        agent = self._state.agent(process.agent)
        tally = self._tallies.get(agent.name)
        return {
            "agent": agent.name,
            "pid": process.pid,
            "parent": process.parent[0] if process.parent else None,
            "start_time": timestamp(process.start, self._offset),
            "user": self._state.user_name(process.uid),
            "exe": process.exe,
            "argv": list(process.argv),
            "cwd": process.cwd,
            "status": process.status,
            "markers": self._state.markers(process),
            "alerted": tally is not None and process.pid in tally.pids,
            "gpu": _gpu_sum(gpus),
        }

    def flows(self, arguments: Arguments) -> dict[str, Any]:
        """Flows, the latest last."""
        wanted = self._wanted(arguments)
        found = [one for one in self._state.flows.all() if one.agent in wanted]
        limit = arguments.get("limit", ROWS)
        shown = found[max(0, len(found) - limit) :]
        return {"flows": [self._flow(flow) for flow in shown], "more": len(found) - len(shown)}

    def flow(self, arguments: Arguments) -> dict[str, Any]:
        """One flow, what was recognised in it, and the head of what each side said, in hexadecimal.

        The heads are None where they are no longer remembered.
        """
        text = arguments["flow"]
        flow = self._state.flows.known(int(text)) if text.isascii() and text.isdecimal() else None
        if flow is None:
            raise ProtocolError("unknown", f"flow {text} is not remembered")
        owner = self._state.processes.known(flow.owner)
        return {
            **self._flow(flow),
            "exe": owner.exe if owner else "",
            "error": flow.error,
            "attributes": {
                name: str(value)[:TEXT_KEPT] for name, value in list(flow.attributes.items())[:_ATTRIBUTES]
            },
            "head_out": None if flow.head_out is None else flow.head_out.hex(),
            "head_in": None if flow.head_in is None else flow.head_in.hex(),
        }

    def _flow(self, flow: Flow) -> dict[str, Any]:
        return {
            "id": flow.cookie,
            "agent": self._state.agent(flow.agent).name,
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

    def latest_alerts(self, arguments: Arguments) -> dict[str, Any]:
        """Alerts, the latest last, and the number of the very last one."""
        name = arguments.get("agent")
        first = self.alert_number - len(self.alerts) + 1
        found = [(n, alert) for n, alert in enumerate(self.alerts, first) if name in (None, alert["agent"])]
        found = found[max(0, len(found) - arguments.get("limit", ALERTS_KEPT)) :]
        return {
            "alerts": [alert for _, alert in found],
            "numbers": [number for number, _ in found],
            "last": self.alert_number,
        }

    def explain(self, arguments: Arguments) -> dict[str, Any]:
        """Why an alert was raised: its rule, and which selection matched which field."""
        number = arguments["number"]
        place = number - (self.alert_number - len(self.alerts)) - 1
        if not 0 <= place < len(self.alerts):
            raise ProtocolError("unknown", f"alert {number} is not remembered")
        alert = self.alerts[place]
        rule = self._rule(alert["rule"]["id"])
        return {
            "number": number,
            "alert": alert,
            "rule": None if rule is None else _rule_row(rule),
            "details": [] if rule is None else [_detail_row(one) for one in self._details(rule, alert)],
        }

    def _details(self, rule: Rule, alert: dict[str, Any]) -> tuple[Detail, ...]:
        """Of a correlation, what the first of its rules that holds for the alert's event says."""
        if rule.correlation is None:
            return explain_alert(rule, alert)
        counted = [one for name in rule.correlation.rules if (one := self._rule(name))]
        return next((found for one in counted if (found := explain_alert(one, alert))), ())

    def recent(self, arguments: Arguments) -> dict[str, Any]:
        """The latest events that rules saw, the latest last. Of each category so many are kept."""
        name, category = arguments.get("agent"), arguments.get("category")
        categories = self._events if category is None else category.split(",")
        found = [
            event
            for kind in categories
            for event in self._events.get(kind, ())
            if name in (None, event[1].agent)
        ]
        found.sort(key=lambda item: item[0])
        found = found[max(0, len(found) - arguments.get("limit", EVENTS_KEPT)) :]
        return {"events": [self._event(*event) for event in found], "last": self._event_number}

    def _event(self, number: int, sighting: Sighting, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "number": number,
            "time": timestamp(sighting.time, self._offset),
            "agent": sighting.agent,
            "category": sighting.category,
            "seq": sighting.seq,
            "fields": {name: _cut(value) for name, value in fields.items()},
            "truncated": sorted(sighting.truncated),
        }

    def gpus(self, arguments: Arguments) -> dict[str, Any]:
        """The GPUs as last sampled, and which process uses how much of which."""
        return {
            "gpus": [_gpu_row(gpu) for gpu in self._state.gpus.all()],
            "uses": [
                {**_use_row(use), "agent": self._state.agent(use.process.agent).name}
                for uses in self._state.gpus.current().values()
                for use in uses
            ],
        }


def _known(value: int) -> int | None:
    return None if value == UNKNOWN else value


def _gpu_sum(uses: list[GpuUse]) -> dict[str, Any] | None:
    """What is used of GPUs in all, and of which; None where nothing is.

    `percent` is None where none of the shares is known, as of MIG instances.
    """
    if not uses:
        return None
    shares = [use.sm for use in uses if use.sm != UNKNOWN]
    return {
        "on": sorted({use.gpu.label for use in uses}),
        "percent": sum(shares) if shares else None,
        "memory": sum(use.memory for use in uses),
    }


def _gpu_row(gpu: Gpu) -> dict[str, Any]:
    return {
        "label": gpu.label,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "gone": gpu.gone,
        "percent": _known(gpu.sm),
        "memory": gpu.memory,
        "memory_total": gpu.memory_total,
        "encoder": _known(gpu.encoder),
        "milliwatts": _known(gpu.power),
        "celsius": _known(gpu.temperature),
        "processes": gpu.processes,
    }


def _use_row(use: GpuUse) -> dict[str, Any]:
    return {
        "gpu": use.gpu.label,
        "uuid": use.gpu.uuid,
        "pid": use.process.pid,
        "exe": use.process.exe,
        "percent": _known(use.sm),
        "memory": use.memory,
        "busy_ms": use.busy // 1_000_000,
    }


def _rule_row(rule: Rule) -> dict[str, Any]:
    counted = rule.correlation
    return {
        "description": rule.description,
        "falsepositives": list(rule.falsepositives),
        "references": list(rule.references),
        "response": rule.response,
        "file": rule.file,
        "line": rule.line,
        "correlation": None
        if counted is None
        else {
            "type": counted.type,
            "rules": list(counted.rules),
            "group_by": list(counted.group_by),
            "seconds": counted.timespan / 1e9,
            "condition": f"{counted.op} {counted.count}",
        },
    }


def _detail_row(detail: Detail) -> dict[str, Any]:
    return {name: getattr(detail, name) for name in Detail.__slots__}


def _bounded(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """An event's fields, as they are or cut: an agent chooses how long its command lines are."""
    if sum(len(fields.get(name) or "") for name in _LONG) <= TEXT_KEPT:
        return fields
    return {name: _cut(value) for name, value in fields.items()}


def _cut(value: Any) -> Any:
    """A field's value of a bounded size."""
    if isinstance(value, str):
        return value[:TEXT_KEPT]
    if isinstance(value, tuple):
        room, kept = TEXT_KEPT, []
        for item in value:
            room -= len(str(item)) + 1
            if room < 0:
                break
            kept.append(item)
        return kept
    return value
