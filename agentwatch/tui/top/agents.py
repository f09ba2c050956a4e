"""The agents: who is frozen, who is dangerous, what they use."""

from __future__ import annotations

from typing import Any

from agentwatch.tui.text import gpu_share, gpu_words
from agentwatch.tui.top.model import (
    WARNING,
    Column,
    Context,
    Line,
    Listing,
    Question,
    Rates,
    Row,
    Screen,
    clock,
    line,
    many,
    percent,
    size,
    sparkline,
    speed,
    state_span,
)

_TREND = 8  # cells of the sparkline
_WHOLE_CPU = 100.0  # percent: a full bar, unless there was more
_RISK_HIGH = 10  # one alert of level high


class Agents(Screen):
    name = "agents"
    empty = "No agent is watched. Start one: agentwatch run, or agentwatch attach."
    fields = (
        "Agent", "State", "Mode", "Risk", "Alerts", "LastAlert", "Processes", "Flows", "BytesOut",
        "BytesIn", "Memory", "Cgroup", "Lost",
    )  # fmt: skip

    def requests(self, context: Context) -> list[Question]:
        return []  # they are asked for whatever the screen

    def columns(self, context: Context) -> tuple[Column, ...]:
        gpu = any(agent["gpu"] for agent in context.answers.get("agents", ()))
        live = () if context.replay else (
            Column("CPU", 5, rank=3, right=True),
            Column("MEMORY", 6, rank=4, right=True),
        )  # fmt: skip
        return (
            Column("AGENT", 10, grow=2),
            Column("STATE", 7),
            Column("RISK", 4, right=True),
            *live,
            Column("SENT", 9 if live else 7, rank=2, right=True),
            Column("RECEIVED", 9 if live else 8, rank=7, right=True),
            *((Column("GPU", 6, rank=1, right=True),) if gpu else ()),
            *((Column("CPU TREND", _TREND + 1, rank=6),) if live else ()),
            Column("PROCS", 5, rank=8, right=True),
            Column("FLOWS", 5, rank=9, right=True),
            Column("ALERTS", 6, rank=5, right=True),
            Column("LAST ALERT", 24, grow=5),
        )

    def rows(self, context: Context) -> Listing:
        agents = sorted(
            context.answers.get("agents", ()),
            key=lambda agent: (agent["state"] != "paused", -agent["risk"], agent["name"]),
        )
        return Listing(
            ((agent["name"], agent) for agent in agents if context.agent in (None, agent["name"])),
            lambda name, agent: _row(agent, context.rates.get(name, Rates()), context),
        )

    def summary(self, row: Row, context: Context) -> list[Line]:
        agent = row.record
        lines = [_state(agent)]
        if agent["alerts"]:
            lines.append(
                line(
                    f"{many(agent['alerts'], 'alert')}, the last: ",
                    (agent["last_alert"], "bold"),
                    "   e explains it",
                )
            )
        else:
            lines.append(line("No rule has said anything of it."))
        rules = {"enforce": "Rules act on it", "monitor": "Rules only tell"}.get(agent["mode"], "")
        most = f", at most {agent['max_response']}" if agent.get("max_response", "kill") != "kill" else ""
        since = f" Watched since {clock(agent['since'])} UTC." if "since" in agent else ""
        lines.append(line(f"{rules} ({agent['mode']}{most}).{since} Cgroup {agent['cgroup']}"))
        if agent["lost"]:
            lines.append(line((f"{agent['lost']:,} of its events were lost: not all was seen.", WARNING)))
        if context.may_act and agent["state"] != "killed":
            keys = "r lets it go on" if agent["state"] in ("paused", "blocked") else "p freezes it"
            lines.append(line((f"{keys}, K kills it, enter shows its processes", "bold")))
        return lines


def _state(agent: Any) -> Line:
    name, processes = (agent["name"], "bold"), many(agent["processes"], "process")
    by = f" by {agent['acted_by']}" if agent["acted_by"] else ""
    if agent["state"] == "paused":
        return line(name, " was ", state_span("paused"), f"{by}; {processes}")
    if agent["state"] == "blocked":
        what = "it starts no program and reaches nobody"
        return line(name, " was ", state_span("blocked"), f"{by}: {what}; {processes}")
    if agent["state"] == "killed":
        return line(name, " was ", state_span("killed"), f"{by}; {processes} left")
    acted = f"; last act{by}" if by else ""
    using = "".join(f", {text}" for text in [gpu_words(agent["gpu"])] if text)
    return line(name, f" is running: {processes}, {many(agent['flows'], 'connection')}{using}{acted}")


def _row(agent: Any, rates: Rates, context: Context) -> Row:
    uses_gpu = any(one["gpu"] for one in context.answers.get("agents", ()))
    risk = "bold red" if agent["risk"] >= _RISK_HIGH else WARNING if agent["risk"] else ""
    live = (
        (percent(rates.cpu), ""),
        (size(agent.get("memory")), ""),
    )
    traffic = (
        ((size(agent["bytes_out"]), ""), (size(agent["bytes_in"]), ""))
        if context.replay
        else ((speed(rates.out), ""), (speed(rates.inward), ""))
    )
    cells = (
        (agent["name"], "bold"),
        state_span(agent["state"]),
        (str(agent["risk"]), risk),
        *(() if context.replay else live),
        *traffic,
        *(((gpu_share(agent["gpu"]), "bold"),) if uses_gpu else ()),
        *(() if context.replay else ((sparkline(rates.history, _TREND, _WHOLE_CPU), ""),)),
        (str(agent["processes"]), ""),
        (str(agent["flows"]), ""),
        (str(agent["alerts"]), ""),
        (agent["last_alert"] or "-", "bold" if agent["alerts"] else ""),
    )
    fields = {
        "Agent": agent["name"],
        "State": agent["state"],
        "Mode": agent["mode"],
        "Risk": agent["risk"],
        "Alerts": agent["alerts"],
        "LastAlert": agent["last_alert"],
        "Processes": agent["processes"],
        "Flows": agent["flows"],
        "BytesOut": agent["bytes_out"],
        "BytesIn": agent["bytes_in"],
        "Memory": agent.get("memory"),
        "Cgroup": agent["cgroup"],
        "Lost": agent["lost"],
    }
    return Row(agent["name"], agent["name"], cells, fields, agent)
