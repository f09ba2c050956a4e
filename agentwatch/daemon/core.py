"""The core of the daemon: one loop that folds records first and does everything else between."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from agentwatch.clock import now
from agentwatch.config.keys import keys
from agentwatch.config.load import ConfigError, load
from agentwatch.config.model import Config, Policy
from agentwatch.config.reload import ConfigReader, keep_fixed
from agentwatch.config.sinks import plain
from agentwatch.control.desk import Desk
from agentwatch.control.protocol import VERBS, ProtocolError
from agentwatch.daemon.helper import Helper
from agentwatch.daemon.log import say
from agentwatch.daemon.marking import Marking
from agentwatch.daemon.memory import Memory
from agentwatch.daemon.meter import Meter
from agentwatch.daemon.notify import Notifier
from agentwatch.daemon.recording import Recording, settings_of
from agentwatch.daemon.roster import Roster
from agentwatch.daemon.seeking import Seeking
from agentwatch.enrich.sighting import Sighting
from agentwatch.kernel.cgroup import find_mount, of_process
from agentwatch.kernel.errors import KernelError
from agentwatch.markers import check
from agentwatch.resources import RULES
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.rules.watch import RuleWatcher
from agentwatch.session import Session
from agentwatch.sinks.alerts import timestamp
from agentwatch.watch import Watch

STEP_SECONDS = 0.01
_EVENTS_A_SECOND = 2000  # more than anybody reads; a flood must not cost the event path more
_TEND_NS = 50_000_000  # between two looks at who has ended


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


def _settings(config: Config) -> dict[str, Any]:
    """What the front has to know."""
    control = config.control
    return {
        "socket": str(config.socket),
        "act_group": control.act_group,
        "read_group": control.read_group,
        "sinks": plain(config.sinks),
    }


class Daemon:
    """The service, from start to stop. A reload reads `main`, the main file, with the same `flags`."""

    def __init__(
        self, config: Config, main: Path | None = None, flags: Mapping[str, Any] | None = None
    ) -> None:
        self._config = config
        self._reader = ConfigReader(lambda: load(main, flags))
        self._unanswered: list[tuple[int, dict[str, Any]]] = []
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
            self._watcher = stack.enter_context(RuleWatcher(_rule_files(config), self._load, rules))
            memory = Memory(config.run_dir / "agents.json")
            self._marking = Marking(self._session, say)
            self._roster = Roster(self._session, memory, say, self._gone, config)
            self._meter = Meter(self._session, config.sinks.prometheus.probe_times)
            stack.callback(self._meter.close)
            self._front = Helper(_settings(config), "agentwatch.daemon.front", "the control front")
            stack.callback(self._front.close)
            seeker = Helper({}, "agentwatch.daemon.discover", "the seeker of agents")
            stack.callback(seeker.close)
            self._seeking = Seeking(seeker, self._roster, say, config)
            self._recording = (
                self._record(stack, rules) if config.incidents.enabled or config.record.enabled else None
            )
            self._stack = stack.pop_all()

    def _record(self, stack: ExitStack, rules: RuleSet) -> Recording:
        """Start the recorder; from the first round on it gets everything."""
        config, session = self._config, self._session
        self._recorder_settings = settings_of(config, session, rules)
        helper = Helper(self._recorder_settings, "agentwatch.daemon.recorder", "the recorder", 20)
        stack.callback(helper.close)
        helper.receive()  # starts it
        self._recorder_settings["resumed"] = True  # for one that is started again
        is_continuous = config.record.enabled
        recording = Recording(helper, session, say, self._saved, is_continuous=is_continuous)
        session.record_with(recording, redact=is_continuous)
        return recording

    def _saved(self, ticket: int, answer: dict[str, Any]) -> None:
        self._front.send("answer", ticket, answer)

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
            self._meter.after_round()
            self._turn()
        self._notifier.say("STOPPING=1")
        self._session.finish()
        self._roster.save()

    def _turn(self) -> None:
        """All that is not folding records: each a little at a time."""
        for message in self._front.receive():
            self._take(message)
        self._seeking.turn()
        if self._recording is not None:
            self._recording.turn()
        if now() >= self._next_tend:
            self._next_tend = now() + _TEND_NS
            self._roster.tend()
            self._seeking.tend()
            self._marking.tend()
        self._answer_late()
        if self._meter.due():
            front = self._front
            front.send("metrics", self._meter.samples(front.backlog, front.dropped))
        self._reload()
        self._notifier.alive()

    def _on_stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _on_reload(self, number: int, frame: object) -> None:
        self._reloading = True

    def _reload(self) -> None:
        if self._reloading:
            self._reloading = False
            self._reader.request()
        found = self._reader.poll()
        if isinstance(found, ConfigError):
            for problem in found.problems:
                say(f"the configuration before stays in force: {problem}")
        elif found is not None:
            self._use(found.config)
        if found is not None:
            self._watcher.use(_rule_files(self._config))
            self._front.configure(_settings(self._config))
        self._take_rules()

    def _use(self, config: Config) -> None:
        """Have another configuration in force, between two rounds."""
        self._config, fixed = keep_fixed(self._config, config)
        for key in fixed:
            say(f"{key} changes only with a restart")
        self._roster.use(self._config)
        self._seeking.use(self._config)
        self._meter.probe_times = self._config.sinks.prometheus.probe_times
        self._next_tend = 0
        say("configuration reloaded")

    def _take_rules(self) -> None:
        outcome = self._watcher.poll()
        if outcome is None:
            return
        if outcome.rules is not None:
            self._session.use_rules(outcome.rules)
            if self._recording is not None:
                # For a recorder that is started again: one that runs learns it from the record.
                self._recorder_settings.update(settings_of(self._config, self._session, outcome.rules))
            say(f"rules reloaded: {len(outcome.rules.rules)} are in force")
        for problem in outcome.problems:
            say(f"the rules before stay in force: {problem}")

    def _on_alert(self, alert: dict[str, Any]) -> None:
        self._desk.note_alert(alert)
        self._meter.note_alert(alert["rule"]["level"])
        self._next_tend = 0  # it may have acted, which is to be remembered
        self._front.send("item", "alerts", self._desk.alert_number, alert)

        if self._recording is not None and (number := self._desk.find(alert["agent"])) is not None:
            self._recording.alert(number, alert)

    def _gone(self, number: int, name: str) -> None:
        """An agent is watched no longer."""
        self._desk.forget(name)
        if self._recording is not None:
            self._recording.gone(number)

    def _on_event(self, sighting: Sighting) -> None:
        self._desk.note_event(sighting)
        item = self._events.item(sighting, self._session.clock_offset)
        if item is not None:
            self._front.send("item", "events", self._events.number, item)

    def _take(self, message: list[Any]) -> None:
        match message:
            case ["ask", ticket, "save", arguments, peer]:
                self._save(ticket, arguments, peer)
            case ["ask", ticket, verb, arguments, peer]:
                answer = self._answer(verb, arguments, peer)
                if verb == "attach" and "result" in answer:
                    self._unanswered.append((ticket, answer))
                else:
                    self._front.send("answer", ticket, answer)
            case ["follows", "events", count]:
                self._session.pipeline.tap = self._on_event if count else self._desk.note_event
            case ["scraped"]:
                self._meter.note_scrape()
            case ["marks", pid, for_agent, markers]:
                self._marking.by_process(pid, for_agent, markers)
            case ["marked", name, markers]:
                self._marking.by_file(name, markers)
            case ["failed", reason]:
                say(reason)

    def _save(self, ticket: int, arguments: dict[str, Any], peer: list[Any]) -> None:
        """Answered when the recorder has written it."""
        who, name = _who(peer), arguments["agent"]
        try:
            number = self._desk.number(name)
            if self._recording is None:
                raise ProtocolError("request", "nothing is recorded: see [incidents] in the configuration")
            self._refuse_agents(peer[-1])
        except ProtocolError as error:
            self._saved(ticket, {"error": str(error), "code": error.code})
            return
        say(f"{who}: save {name!r}")
        self._session.step(0)
        self._recording.save(ticket, number, name, who)

    def _answer(self, verb: str, arguments: dict[str, Any], peer: list[Any]) -> dict[str, Any]:
        who, pid, cgroup = _who(peer), peer[0], peer[-1]
        try:
            if not VERBS[verb].acts:
                return {"result": self._look(verb, arguments)}
            self._refuse_agents(cgroup)
            say(f"{who}: {verb} {arguments.get('agent', arguments.get('target', ''))!r}")
            result = self._act(verb, arguments, who, pid)
            # Who is told that it was done may rely on it, even if we are killed now.
            self._session.step(0)
            self._roster.tend()
            return {"result": result}
        except ProtocolError as error:
            return {"error": str(error), "code": error.code}
        except (KernelError, OSError, ValueError) as error:
            return {"error": str(error), "code": "request"}

    def _answer_late(self) -> None:
        """Who had an agent attached hears of it when all that it does is seen."""
        if not self._unanswered:
            return
        unready = {one.options.name for one in self._session.watch.agents.values() if not one.ready}
        waiting, self._unanswered = self._unanswered, []
        for ticket, answer in waiting:
            if answer["result"]["agent"] in unready:
                self._unanswered.append((ticket, answer))
            else:
                self._front.send("answer", ticket, answer)

    def _look(self, verb: str, arguments: dict[str, Any]) -> Any:
        result = self._desk.answer(verb, arguments)
        if verb == "status":
            result["link"] = {"backlog": self._front.backlog, "dropped": self._front.dropped}
        return result

    def _refuse_agents(self, cgroup: str) -> None:
        """An agent that is root may reach the socket; it may not free itself through it."""
        for watched in self._session.watch.agents.values():
            if f"{cgroup}/".startswith(f"{watched.cgroup.name}/"):
                raise ProtocolError("denied", f"agent {watched.options.name} may not act on agents")

    def _act(self, verb: str, arguments: dict[str, Any], who: str, pid: int) -> Any:
        if verb == "begin":
            markers = arguments.get("markers", {})
            check(markers)
            number = self._roster.begin(arguments["name"], self._terms(arguments), who, pid)
            self._marking.by_hand(number, markers, who)
            return self._watched(number)
        if verb == "enter":
            self._roster.enter(self._desk.number(arguments["agent"]), pid)
            return {}
        if verb == "end":
            self._roster.end(self._desk.number(arguments["agent"]))
            return {}
        if verb == "attach":
            return self._attach(arguments, who)
        if verb == "detach":
            self._roster.detach(self._desk.number(arguments["agent"]))
            return {}
        if verb == "mark":
            self._marking.by_hand(self._desk.number(arguments["agent"]), arguments["markers"], who)
            return {}
        if verb == "reload":
            self._reloading = True
            return {}
        return self._desk.act(verb, arguments, who)

    def _attach(self, arguments: dict[str, Any], who: str) -> dict[str, Any]:
        target = arguments["target"]
        path = of_process(int(target)) if target.isdecimal() else Path(target)
        number = self._roster.attach(
            find_mount() / path, self._terms(arguments), f"attached by {who}", arguments.get("name", "")
        )
        return self._watched(number)

    def _terms(self, arguments: dict[str, Any]) -> Policy:
        """The policy of an agent that comes by hand. Raises `ProtocolError`."""
        given = {key: arguments[key] for key in ("mode", "max_response") if key in arguments}
        for key, value in given.items():
            choices = keys(Policy)[key].meta["choices"]
            if value not in choices:
                raise ProtocolError("request", f"{key} is one of {', '.join(choices)}")
        return replace(self._config.policy, **given)

    def _watched(self, number: int) -> dict[str, Any]:
        """What who had an agent attached or begun is told of it."""
        watched = self._session.watch.agents[number]
        return {"agent": watched.options.name, "cgroup": str(watched.cgroup.path)}


def _rule_files(config: Config) -> list[Path]:
    """Where a change can change the rules."""
    return [*(config.rules.paths or [RULES]), *config.rules.exceptions]


def _who(peer: list[Any]) -> str:
    """Who asks, for the audit."""
    pid, uid, name, _ = peer
    return f"{name} (uid {uid}, pid {pid})"
