"""Answers what is asked about a live session, and does what is asked of it: pause, resume, kill."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentwatch.clock import now
from agentwatch.control.protocol import ProtocolError
from agentwatch.control.view import Arguments, View
from agentwatch.respond.outcome import Outcome
from agentwatch.session import Session
from agentwatch.sinks.alerts import timestamp
from agentwatch.watch import Watched


class Desk(View):
    """One session's: what a `View` of it tells, with what the host says of cgroups, and acts by hand."""

    def __init__(self, session: Session, clock_offset: int) -> None:
        super().__init__(session.pipeline, clock_offset, lambda: session.watch.agents)
        self._session = session
        self._began = now()
        self._acts: dict[str, Callable[[Arguments, str], Any]] = {
            "pause": lambda arguments, who: self._act("pause", arguments, who),
            "resume": lambda arguments, who: self._act("resume", arguments, who),
            "kill": lambda arguments, who: self._act("kill", arguments, who),
        }

    def act(self, verb: str, arguments: Arguments, who: str) -> Any:
        """Do what a verb that acts says. Raises `ProtocolError`."""
        act = self._acts.get(verb)
        if act is None:
            raise ProtocolError("request", f"{verb} is not for here")
        return act(arguments, who)

    def find(self, name: str) -> int | None:
        """Those under watch, by what they are to be called: one that has just come is in no record yet."""
        agents = self._session.watch.agents.items()
        return next((number for number, watched in agents if watched.options.name == name), None)

    def status(self, arguments: Arguments) -> dict[str, Any]:
        return {
            **super().status(arguments),
            "time": timestamp(now(), self._offset),
            "pid": os.getpid(),
            "kernel": platform.release(),
            "since": timestamp(self._began, self._offset),
        }

    def health(self, arguments: Arguments) -> dict[str, Any]:
        return {
            **super().health(arguments),
            "lag_us": self._session.lag // 1000,
            "probes": self._session.probes.loaded,
        }

    def agents(self, arguments: Arguments) -> list[dict[str, Any]]:
        return [
            {
                **row,
                "max_response": watched.options.max_response,
                "origin": watched.options.terms.origin if watched.options.terms else "",
                "since": timestamp(watched.began, self._offset),
                "limits": _limits(watched),
                **_usage(watched.cgroup.path),
            }
            for row, watched in zip(
                super().agents(arguments), self._session.watch.agents.values(), strict=True
            )
        ]

    def _act(self, response: str, arguments: Arguments, who: str) -> dict[str, Any]:
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


def _limits(watched: Watched) -> list[dict[str, Any]]:
    """What the policy wants in the cgroup's files, and what stands there: None where the file is not, for
    its controller is not enabled there."""
    found = []
    for limit in watched.options.terms.limits if watched.options.terms else ():
        name, _, wanted = limit.partition("=")
        stands = None
        with contextlib.suppress(OSError):
            stands = (watched.cgroup.path / name).read_text(encoding="ascii").strip()
        found.append({"file": name, "wanted": wanted, "stands": stands})
    return found


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
