"""A recording as a story: who ran what, who spoke with whom, what was found. One replay tells it.

A `Story` keeps what may still change (processes that run, flows that are open, and the last that
ended) and hands each on when it is complete. Who needs a process for longer keeps its `Life`,
which holds on to its ancestors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Agent, Change
from agentwatch.event import Value
from agentwatch.forensics.account import Account
from agentwatch.pipeline import Pipeline
from agentwatch.replay import Order, Outcome, Recording, Replay
from agentwatch.rules.model import RuleSet
from agentwatch.schema.events import HOST, Type
from agentwatch.schema.fields import CONNECTION, FIELDS, PROCESS
from agentwatch.trace.format import TraceHeader

LIVES_KEPT = 16384  # processes not handed on yet
ENDED_KEPT = 4096  # of them ended: flows, findings and children may come late
LINKS_KEPT = 16384  # flows not handed on yet
CLOSED_KEPT = 2048
LINKS_REMEMBERED = 1024  # by record, for alerts that wait for their act
PROGRAMS_KEPT = 16  # of a process
FINDINGS_KEPT = 32  # of a process
DEEPEST = 256  # ancestors that a process holds on to; of more, those in the middle are left out
LINKS_OF_LIFE = 32  # flows that a process holds on to
ARGV_KEPT = 4096  # characters of a program's arguments

_SAID_APART = frozenset(one.name for one in (*PROCESS, *CONNECTION))
# Events of these categories say what their records do; all others are findings.
PLAIN = frozenset(
    ("process_creation", "network_connection", "network_listen", "socket_creation", "unix_connection",
     "dns_query", "gpu", "loss")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Program:
    """A program that a process ran. `cut`: the arguments are not whole; `already`: nobody saw it start."""

    seq: int
    time: int
    exe: str
    argv: tuple[str, ...]
    cwd: str
    user: str
    cut: bool
    already: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What was recognised: an event that says more than its record does."""

    seq: int
    time: int
    category: str
    facts: tuple[tuple[str, Value], ...]
    link: Link | None

    @property
    def text(self) -> str:
        """The facts in one line; an agent may have chosen some of them."""
        words = (f"{name} {_words(value)}" for name, value in self.facts)
        return ", ".join(words) or self.category


@dataclass(slots=True, eq=False)
class Life:
    """A process from its beginning to its end. `began` is 0 where its fork was not seen.

    `skipped` counts the generations that are left out between it and `parent`.
    """

    process: Process
    agent: str
    number: int  # in the order of first sight, from 1
    parent: Life | None = None
    depth: int = 0
    skipped: int = 0
    began: int = 0
    programs: list[Program] = field(default_factory=list)
    programs_run: int = 0
    findings: list[Finding] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    links_seen: int = 0
    markers: dict[str, str] = field(default_factory=dict)  # when it was first seen to act

    @property
    def ancestry(self) -> list[Life]:
        """From the first known ancestor down to this process."""
        chain: list[Life] = []
        life: Life | None = self
        while life is not None and life not in chain:  # a made-up trace may have circles
            chain.append(life)
            life = life.parent
        return chain[::-1]


@dataclass(slots=True, eq=False)
class Link:
    """A flow, whose process it was when it began, and what was found of it."""

    flow: Flow
    owner: Life
    number: int
    behaviours: dict[str, None] = field(default_factory=dict)


class Listener:
    """Hears a story. Each method may be left as it is."""

    def begin(self, story: Story) -> None:
        """Header and rules are known; nothing has been told yet."""

    def moment(self, change: Change, events: list[Sighting], life: Life) -> None:
        """A record, and the events that it led to."""

    def process(self, life: Life) -> None:
        """A process, complete as far as is known."""

    def link(self, link: Link) -> None:
        """A flow, complete as far as is known."""

    def alert(self, number: int, alert: dict[str, Any], life: Life | None, link: Link | None) -> None:
        """The n-th alert of the recording, from 1."""


class Story(Account):
    """Folds one recording. `tell` replays it once and returns what the replay found."""

    categories = FIELDS.keys()
    rules: RuleSet

    def __init__(self, recording: Recording, *listeners: Listener, order: Order | None = None) -> None:
        super().__init__(recording)
        self._listeners, self._order = listeners, order or Order()
        self._lives: dict[Key, Life] = {}
        self._ended: dict[Key, None] = {}
        self._links: dict[int, Link] = {}
        self._closed: dict[int, None] = {}
        self._known = [0, 0]  # processes and flows so far
        self._change: Change | None = None
        self._events: list[Sighting] = []
        self._waiting: list[dict[str, Any]] = []
        self._about: dict[int, Link] = {}
        self._alerts = 0

    def tell(self, progress: Callable[[int], object] = lambda done: None) -> Outcome:
        """Replay the recording; what is damaged is in the outcome's remarks, and the rest is told."""
        self.outcome = Replay(self.recording, self._order, lambda line: None, progress, observer=self).run()
        self._flush()
        for cookie in list(self._links):
            self._hand_on_link(cookie)
        for key in list(self._lives):
            self._hand_on(key)
        return self.outcome

    # --- the observer of the replay ---

    def begin(self, pipeline: Pipeline, header: TraceHeader) -> None:
        super().begin(pipeline, header)
        self.rules = pipeline.rules
        for listener in self._listeners:
            listener.begin(self)

    def ready(self) -> None:
        self._flush()

    def record(self, change: Change) -> None:
        self.spans(change.time, change.time)
        self._change = change
        self._events = []

    def event(self, event: Sighting) -> None:
        self._events.append(event)

    def alert(self, alert: dict[str, Any]) -> None:
        self._waiting.append(alert)

    def _alert(self, alert: dict[str, Any]) -> None:
        self._alerts += 1
        process = alert["process"]
        offset = self.header.clock_offset if self.header else 0
        life = self._lives.get((process["pid"], wall_of(process["start_time"]) - offset))
        link = self._about.get(alert["evidence"][-1]) if alert["evidence"] and alert["flow"] else None
        for listener in self._listeners:
            listener.alert(self._alerts, alert, life, link)

    def _flush(self) -> None:
        """A record and its events are complete: they are told, then the alerts that came of them."""
        change, self._change = self._change, None
        if change is not None:
            self._moment(change)
        while self._waiting:
            self._alert(self._waiting.pop(0))

    def _moment(self, change: Change) -> None:
        life = self._life(change.process, change.agent)
        kind = change.type
        if kind == Type.FORK:
            life.began = life.began or change.time
            self._place(life, change.agent)
        elif kind in (Type.EXEC, Type.PROCESS):
            self._ran(life, change)
        link = None if change.flow is None else self._link(change.flow, life)
        for event in self._events:
            life.markers = life.markers or markers_of(event)
            self._found(life, link, event)
        if self._events and link is not None:
            self._remember(change.seq, link)
        for listener in self._listeners:
            listener.moment(change, self._events, life)
        if kind == Type.EXIT:
            self._retire(self._ended, life.process.key, ENDED_KEPT, self._hand_on)
        elif kind == Type.CLOSE and change.flow is not None:
            self._retire(self._closed, change.flow.cookie, CLOSED_KEPT, self._hand_on_link)

    def _remember(self, seq: int, link: Link) -> None:
        """Alerts come later than their record, by a round or two: which flow they are about."""
        self._about[seq] = link
        if len(self._about) > LINKS_REMEMBERED:
            del self._about[next(iter(self._about))]

    # --- processes ---

    def _life(self, process: Process, agent: Agent) -> Life:
        life = self._lives.get(process.key)
        if life is None:
            self._known[0] += 1
            life = Life(process, agent.name, self._known[0])
            if process.pid:  # 0 stands for none
                self._lives[process.key] = life
                if len(self._lives) > LIVES_KEPT:
                    self._hand_on(next(iter(self._lives)))
        if agent.number != HOST:
            life.agent = agent.name
        return life

    def _place(self, life: Life, agent: Agent) -> None:
        """Below who made it, where that is an agent's process."""
        maker = life.process.parent
        if life.parent is not None or maker is None:
            return
        above = self._lives.get(maker)
        if above is None and (process := self.state.processes.known(maker)):
            above = self._life(process, agent)
        if above is None or above is life:
            return
        life.depth, life.parent = above.depth + 1, above
        if life.depth > DEEPEST:
            life.depth, life.skipped, life.parent = above.depth, above.skipped + 1, above.parent

    def _ran(self, life: Life, change: Change) -> None:
        process = change.process
        self._place(life, change.agent)
        life.programs_run += 1
        argv, cut = _shortened(process.argv)
        program = Program(
            change.seq,
            change.time,
            process.exe,
            argv,
            process.cwd,
            self.state.user_name(process.uid),
            cut or "CommandLine" in process.truncated,
            change.type == Type.PROCESS,
        )
        if len(life.programs) == PROGRAMS_KEPT:
            del life.programs[1]  # the first and the last say most
        life.programs.append(program)

    def _found(self, life: Life, link: Link | None, event: Sighting) -> None:
        if event.category in PLAIN:
            return
        facts = tuple((n, v) for n, v in event.fields.items() if n not in _SAID_APART and v not in (None, ()))
        if link is not None and (behaviour := behaviour_of(event)):
            link.behaviours[behaviour] = None
        if any(one.facts == facts and one.link is link for one in life.findings):
            return
        if len(life.findings) < FINDINGS_KEPT:
            life.findings.append(Finding(event.seq, event.time, event.category, facts, link))

    def _hand_on(self, key: Key) -> None:
        self._ended.pop(key, None)
        life = self._lives.pop(key)
        for listener in self._listeners:
            listener.process(life)

    # --- flows ---

    def _link(self, flow: Flow, life: Life) -> Link:
        link = self._links.get(flow.cookie)
        if link is None:
            self._known[1] += 1
            link = self._links[flow.cookie] = Link(flow, life, self._known[1])
            life.links_seen += 1
            if len(life.links) < LINKS_OF_LIFE:
                life.links.append(link)
            if len(self._links) > LINKS_KEPT:
                self._hand_on_link(next(iter(self._links)))
        return link

    def _hand_on_link(self, cookie: int) -> None:
        self._closed.pop(cookie, None)
        link = self._links.pop(cookie)
        for listener in self._listeners:
            listener.link(link)

    @staticmethod
    def _retire(queue: dict[Any, None], key: Any, limit: int, hand_on: Callable[[Any], None]) -> None:
        queue.setdefault(key)
        if len(queue) > limit:
            hand_on(next(iter(queue)))


def _shortened(argv: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """The beginning of the arguments, and whether that is not all."""
    room = ARGV_KEPT
    for index, word in enumerate(argv):
        if len(word) > room:
            return (*argv[:index], word[:room]), True
        room -= len(word) + 1
    return argv, False


def behaviour_of(event: Sighting) -> str:
    """What a flow was found to do, with the stage that was reached; empty where that is nothing."""
    if event.category in PLAIN:
        return ""
    name = event.fields.get("Behaviour") or event.fields.get("Kind")
    stage = event.fields.get("Stage")
    return " ".join(str(word) for word in (name, stage) if word) if name else ""


def markers_of(event: Sighting) -> dict[str, str]:
    """The markers on an event, by name."""
    told = event.fields.get("Markers")
    pairs = (str(one).partition("=") for one in told) if isinstance(told, tuple) else ()
    return {name: value for name, _, value in pairs}


def _words(value: Value) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_STAMP = re.compile(r"(\d{1,4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{9})Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def wall_of(stamp: str) -> int:
    """Nanoseconds since 1970 from a time as alerts tell it."""
    found = _STAMP.fullmatch(stamp)
    if found is None:
        return 0
    *whole, part = map(int, found.groups())
    seconds = (datetime(*whole, tzinfo=timezone.utc) - _EPOCH) // timedelta(seconds=1)  # type: ignore[arg-type, misc]
    return seconds * 1_000_000_000 + part
