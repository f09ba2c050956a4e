"""The core of the daemon: one loop that folds records first and does everything else between."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from agentwatch.clock import now
from agentwatch.config.model import Config, Policy
from agentwatch.control.desk import Desk
from agentwatch.control.protocol import VERBS, ProtocolError
from agentwatch.daemon.link import Link, LinkError
from agentwatch.daemon.memory import Memory
from agentwatch.daemon.notify import Notifier
from agentwatch.daemon.roster import Roster
from agentwatch.enrich.sighting import Sighting
from agentwatch.kernel.cgroup import CgroupError, find_mount, of_process
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.rules.watch import RuleWatcher
from agentwatch.session import Session
from agentwatch.sinks.alerts import timestamp
from agentwatch.watch import Watch

STEP_SECONDS = 0.01
_RESTART_NS = 1_000_000_000  # between two starts of the front
_EVENTS_A_SECOND = 2000  # more than anybody reads; a flood must not cost the event path more
_TEND_NS = 50_000_000  # between two looks at who has ended


def say(text: str) -> None:
    """A line to the journal, which systemd reads from standard error."""
    print(f"agentwatch: {text}", file=sys.stderr, flush=True)


class Front:
    """The front process, as the core sees it. One that dies is started again."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._link: Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0
        self.dropped = 0

    def send(self, *message: Any) -> None:
        """Never waits: what cannot be sent is dropped and counted."""
        if self._link is None:
            self.dropped += 1
            return
        try:
            self.dropped += not self._link.send(message)
        except LinkError:
            self._end()

    def receive(self) -> list[Any]:
        """What the front has said. Starts it where it does not run."""
        if self._link is None:
            if now() >= self._next:
                self._start()
            return []
        try:
            self._link.flush()
            return self._link.receive()
        except LinkError:
            say("the control front ended and is started again")
            self._end()
            return []

    def _start(self) -> None:
        self._next = now() + _RESTART_NS
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "agentwatch.daemon.front", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        self._link = Link(ours)
        self.send("settings", self._settings)

    def _end(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """It ends by itself when its link does."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._process is not None:
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._end()


class EventFeed:
    """Events for those who follow them, so many a second and no more: `missed` says how many were not."""

    def __init__(self) -> None:
        self.number = 0
        self._second = self._told = self._missed = 0

    def item(self, sighting: Sighting, clock_offset: int) -> dict[str, Any] | None:
        """The event as plain data; None for one too many."""
        second = sighting.time // 1_000_000_000
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= _EVENTS_A_SECOND:
            self._missed += 1
            return None
        self._told += 1
        self.number += 1
        missed, self._missed = self._missed, 0
        return {
            "time": timestamp(sighting.time, clock_offset),
            "agent": sighting.agent,
            "category": sighting.category,
            "seq": sighting.seq,
            "fields": dict(sighting.fields),
            "truncated": sorted(sighting.truncated),
            "missed": missed,
        }


class Daemon:
    """The service, from start to stop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = self._reloading = False
        self._next_tend = 0
        self._events = EventFeed()
        with ExitStack() as stack:
            config.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._notifier = Notifier()
            stack.callback(self._notifier.close)
            watch = stack.enter_context(Watch())
            rules = self._load()
            self._session = stack.enter_context(Session(watch, rules, [self._on_alert]))
            self._desk = Desk(self._session, self._session.clock_offset)
            self._session.pipeline.tap = self._desk.note_event
            watched = [*(config.rules.paths or [RULES]), *config.rules.exceptions]
            self._watcher = stack.enter_context(RuleWatcher(watched, self._load, rules))
            memory = Memory(config.run_dir / "agents.json")
            self._roster = Roster(self._session, memory, say, self._desk.forget)
            control = config.control
            self._front = Front(
                {
                    "socket": str(control.socket),
                    "act_group": control.act_group,
                    "read_group": control.read_group,
                }
            )
            stack.callback(self._front.close)
            self._stack = stack.pop_all()

    def _load(self) -> RuleSet:
        return load_rules(list(self._config.rules.paths) or [RULES], exceptions=self._config.rules.exceptions)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Agents stay as they are, and are taken up again by the next daemon."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        self._roster.adopt()
        self._session.step(0)
        self._notifier.say("READY=1", f"MAINPID={os.getpid()}")
        while not self._stopping:
            self._session.step(STEP_SECONDS)
            self._turn()
        self._notifier.say("STOPPING=1")
        self._session.finish()
        self._roster.save()

    def _turn(self) -> None:
        """All that is not folding records: each a little at a time."""
        for message in self._front.receive():
            self._take(message)
        if now() >= self._next_tend:
            self._next_tend = now() + _TEND_NS
            self._roster.tend()
        self._reload()
        self._notifier.alive()

    def _on_stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _on_reload(self, number: int, frame: object) -> None:
        self._watcher.request()

    def _reload(self) -> None:
        outcome = self._watcher.poll()
        if outcome is None:
            return
        if outcome.rules is not None:
            self._session.use_rules(outcome.rules)
            say(f"rules reloaded: {len(outcome.rules.rules)} are in force")
        for problem in outcome.problems:
            say(f"the rules before stay in force: {problem}")

    def _on_alert(self, alert: dict[str, Any]) -> None:
        self._desk.note_alert(alert)
        self._next_tend = 0  # it may have acted, which is to be remembered
        self._front.send("item", "alerts", self._desk.alert_number, alert)

    def _on_event(self, sighting: Sighting) -> None:
        self._desk.note_event(sighting)
        item = self._events.item(sighting, self._session.clock_offset)
        if item is not None:
            self._front.send("item", "events", self._events.number, item)

    def _take(self, message: list[Any]) -> None:
        match message:
            case ["ask", ticket, verb, arguments, peer]:
                self._front.send("answer", ticket, self._answer(verb, arguments, peer))
            case ["follows", "events", count]:
                self._session.pipeline.tap = self._on_event if count else self._desk.note_event
            case ["failed", reason]:
                say(reason)

    def _answer(self, verb: str, arguments: dict[str, Any], peer: list[Any]) -> dict[str, Any]:
        pid, uid, name, cgroup = peer
        who = f"{name} (uid {uid}, pid {pid})"
        try:
            if not VERBS[verb].acts:
                return {"result": self._desk.answer(verb, arguments)}
            self._refuse_agents(cgroup)
            say(f"{who}: {verb} {arguments.get('agent', arguments.get('target', ''))!r}")
            result = self._act(verb, arguments, who)
            # Who is told that it was done may rely on it, even if we are killed now.
            self._session.step(0)
            self._roster.tend()
            return {"result": result}
        except ProtocolError as error:
            return {"error": str(error), "code": error.code}
        except (CgroupError, ValueError) as error:
            return {"error": str(error), "code": "request"}

    def _refuse_agents(self, cgroup: str) -> None:
        """An agent that is root may reach the socket; it may not free itself through it."""
        for watched in self._session.watch.agents.values():
            if f"{cgroup}/".startswith(f"{watched.cgroup.name}/"):
                raise ProtocolError("denied", f"agent {watched.options.name} may not act on agents")

    def _act(self, verb: str, arguments: dict[str, Any], who: str) -> Any:
        if verb == "attach":
            return self._attach(arguments, who)
        if verb == "detach":
            self._roster.detach(self._desk.number(arguments["agent"]))
            return {}
        if verb == "reload":
            self._watcher.request()
            return {}
        return self._desk.act(verb, arguments, who)

    def _attach(self, arguments: dict[str, Any], who: str) -> dict[str, Any]:
        target = arguments["target"]
        path = of_process(int(target)) if target.isdecimal() else Path(target)
        mode = arguments.get("mode", self._config.policy.mode)
        if mode not in ("monitor", "enforce"):
            raise ProtocolError("request", "mode is monitor or enforce")
        policy = Policy(mode, self._config.policy.max_response)
        return {
            "agent": self._roster.attach(
                find_mount() / path, policy, f"attached by {who}", arguments.get("name", "")
            )
        }
