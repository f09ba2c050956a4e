"""The tables that a recording is exported and queried as, and the rows that its records make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Key, Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Agent, Change
from agentwatch.forensics.account import Account, digest_of
from agentwatch.forensics.story import behaviour_of, markers_of, wall_of
from agentwatch.schema.events import BY_NUMBER, EVENTS, HOST, SOCKET_BLOCK, Type
from agentwatch.schema.fields import CONNECTION, PROCESS
from agentwatch.trace.format import TraceHeader

ROWS = 4096  # handed on at a time
TEXT_HELD = 16 << 20  # characters in them, of what may be long
LONG = 4096  # characters of arguments that are not made once for all rows
PROCESSES_KEPT = 16384  # rows that are not complete
ENDED_KEPT = 4096  # of them of processes that ended: late records may change them
FLOWS_KEPT = 16384
CLOSED_KEPT = 2048
ACTORS_KEPT = 4096

Row = tuple[Any, ...]
WriteRows = Callable[[str, str, list[Row]], object]
"""Takes host, table and rows."""


class Depth(IntEnum):
    """What must be made of a recording's records for a column; each includes what comes before it."""

    RECORDS = 0  # what they say themselves
    RECOGNISED = 1  # protocols and names
    EVENTS = 2  # all that is found in them
    DETAILS = 3  # and all that is said of it
    JUDGED = 4  # alerts: the rules are evaluated


class Column(NamedTuple):
    """`kind` is time (ns since 1970), text, int, bool, bytes, json (text), texts or ints (lists).

    Of a row that was made at a lesser depth the column is empty.
    """

    name: str
    kind: str
    doc: str
    depth: Depth = Depth.RECORDS


_TRACE = Column("trace", "text", "which trace: see the table traces")
_WHO = (
    Column("agent", "text", "name of the agent"),
    Column("pid", "int", "process id in the initial pid namespace"),
    Column("process_start", "time", "when the process began: with trace and pid, its identity"),
    Column("exe", "text", "path of its program"),
)
_ENDS = (
    Column(
        "protocol",
        "text",
        "application protocol as recognised from the bytes, else the transport",
        Depth.RECOGNISED,
    ),
    Column("source_ip", "text", "local address"),
    Column("source_port", "int", "local port"),
    Column("destination_ip", "text", "remote address"),
    Column("destination_port", "int", "remote port"),
    Column(
        "hostname",
        "text",
        "name of the remote side: from a DNS answer, or asked of a proxy",
        Depth.RECOGNISED,
    ),
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "events": (
        _TRACE,
        Column("time", "time", "when"),
        Column("record", "int", "number of the record, as in an alert's evidence"),
        Column("type", "text", "type of the record: exec, connect, payload, ..."),
        Column("category", "text", "category of the event that rules saw; null where none did"),
        *_WHO,
        Column("cmdline", "text", "its arguments, joined by spaces"),
        Column("flow", "int", "socket cookie: the flow's identity"),
        *_ENDS,
        Column("markers", "json", "markers on the event, such as run and tool call", Depth.DETAILS),
        Column("fields", "json", "what the event says besides", Depth.DETAILS),
        Column("data", "bytes", "of payloads: the bytes captured", Depth.DETAILS),
    ),
    "processes": (
        _TRACE,
        Column("time", "time", "when it was forked, or first seen"),
        Column("ended", "time", "when; null where no end was seen"),
        *_WHO,
        Column("cmdline", "text", "arguments of its last program, joined by spaces"),
        Column("argv", "texts", "the same, one by one"),
        Column("cwd", "text", "working directory"),
        Column("user", "text", "user's name or number"),
        Column("parent_pid", "int", "process id of its maker"),
        Column("parent_start", "time", "when that began"),
        Column("programs", "int", "how many programs it ran (exec)"),
        Column("exit_code", "int", "null where it runs, or a signal ended it"),
        Column("signal", "int", "which signal ended it"),
        Column("cut", "texts", "fields that are not whole"),
    ),
    "flows": (
        _TRACE,
        Column("time", "time", "when it was first seen"),
        Column("closed", "time", "when it closed; null where no end was seen"),
        *_WHO,
        Column("flow", "int", "socket cookie: its identity"),
        Column("transport", "text", "tcp, udp, or the number of the IP protocol"),
        *_ENDS,
        Column("initiated", "bool", "true where the process connected, false where it accepted"),
        Column("bytes_out", "int", "payload bytes sent"),
        Column("bytes_in", "int", "payload bytes received"),
        Column("error", "int", "errno of a connect that failed; 0"),
        Column("behaviours", "texts", "what was found of it: remote_forward opened, ...", Depth.EVENTS),
    ),
    "alerts": (
        _TRACE,
        Column("time", "time", "time of the decisive record"),
        Column("number", "int", "its number in the recording, from 1"),
        Column("title", "text", "the rule's title"),
        Column("level", "text", "informational, low, medium, high, critical"),
        Column("rule", "text", "the rule's id"),
        Column("tags", "texts", "the rule's tags"),
        Column("verdict", "text", "match or undecided"),
        Column("response", "text", "what was decided"),
        Column("acted", "text", "what was done"),
        Column("mode", "text", "monitor or enforce"),
        *_WHO,
        Column("cmdline", "text", "its arguments, joined by spaces"),
        Column("protocol", "text", "of the flow that it is about"),
        Column("local", "text", "local address and port"),
        Column("remote", "text", "remote address and port"),
        Column("hostname", "text", "name of the remote side"),
        Column("evidence", "ints", "numbers of the records that it rests on"),
        Column("complete", "bool", "whether all evidence was there"),
        Column("why", "texts", "what was not"),
        Column("latency_us", "int", "from the decisive record to the act"),
        Column("markers", "json", "markers set by the agent or its trainer"),
        Column("alert", "json", "the whole alert"),
    ),
    "dns": (
        _TRACE,
        Column("time", "time", "when"),
        Column("record", "int", "number of the record"),
        *_WHO,
        Column("server", "text", "address that was asked"),
        Column("name", "text", "the name"),
        Column("type", "text", "record type: A, AAAA, TXT, ..."),
        Column("status", "text", "response code of an answer; null for a question"),
        Column("results", "texts", "addresses and names of the answer"),
    ),
    "traces": (
        _TRACE,
        Column("time", "time", "first record"),
        Column("ended", "time", "last record"),
        Column("file", "text", "as it was named"),
        Column("sha256", "text", "of its files, one after the other; empty for standard input"),
        Column("boot_id", "text", "of the machine's boot"),
        Column("kernel", "text", "release of the kernel"),
        Column("rules", "text", "digest of the rules in force at the start"),
        Column("command", "text", "the command that was run"),
        Column("records", "int", "records folded"),
        Column("alerts", "int", "alerts told", Depth.JUDGED),
        Column("lost", "int", "events that the recording says were lost"),
        Column("damaged", "bool", "whether something is missing or was changed"),
        Column("missing", "texts", "what is damaged, missing or was lost"),
        Column("not_seen", "texts", "what could not be watched on that host"),
    ),
}
"""Every table begins with the trace and a time, by whose date it is partitioned."""

_LEAST = {"events": Depth.EVENTS, "alerts": Depth.JUDGED}
"""Of tables whose rows need more than the records."""


def depth_of(table: str, columns: Iterable[str]) -> Depth:
    """What must be gone into for these columns of a table."""
    named = frozenset(columns)
    depths = (column.depth for column in TABLES[table] if column.name in named)
    return max((*depths, _LEAST.get(table, Depth.RECORDS)))


ALL: Mapping[str, Depth] = {
    name: depth_of(name, (column.name for column in columns)) for name, columns in TABLES.items()
}
"""Every table with all of its columns."""

_IN_COLUMNS = frozenset(one.name for one in (*PROCESS, *CONNECTION)) | {"Markers"}
_BLOCK = frozenset(one.name for one in SOCKET_BLOCK)
_BULKY = frozenset(("content",))
_FORK, _EXIT, _CLOSE = int(Type.FORK), int(Type.EXIT), int(Type.CLOSE)
OF_FLOWS = frozenset(
    int(event.number) for event in EVENTS if event.fields[: len(SOCKET_BLOCK)] == SOCKET_BLOCK
) - {int(Type.SOCKET)}
"""Records of a socket's life but its making, which says nothing of a flow yet."""
_PROGRAMS = frozenset((int(Type.EXEC), int(Type.PROCESS)))
_COMMAND_LINE = [column.name for column in TABLES["events"]].index("cmdline")
_NAMES = {number: event.name for number, event in BY_NUMBER.items()}


@dataclass(slots=True, eq=False)
class _Life:
    process: Process
    agent: Agent
    began: int = 0
    programs: int = 0


@dataclass(slots=True, eq=False)
class _Link:
    flow: Flow
    process: Process
    agent: Agent
    behaviours: dict[str, None] = field(default_factory=dict)


class Tables:
    """Makes rows of the tables named, to the depth given, of what an account's records lead to.

    Of processes and flows a row is written when they ended a while ago; `close` writes the rest, and
    the row about the trace itself.
    """

    def __init__(self, write: WriteRows, wanted: Mapping[str, Depth], account: Account) -> None:
        self._write, self._wanted, self._account = write, wanted, account
        self._rows: dict[str, list[Row]] = {name: [] for name in wanted}
        self._details = wanted.get("events", Depth.RECORDS) >= Depth.DETAILS
        self._recognised = wanted.get("flows", Depth.RECORDS) >= Depth.RECOGNISED
        self._found = wanted.get("flows", Depth.RECORDS) >= Depth.EVENTS
        makers = {"events": self._event, "dns": self._query, "processes": self._live, "flows": self._carry}
        self._makers = [make for name, make in makers.items() if name in wanted]
        self._actors: dict[Key, tuple[tuple[str, ...], Row]] = {}
        self._held = 0  # characters
        self._alerts = 0
        self.lives: dict[Key, _Life] = {}
        self._ended: dict[Key, None] = {}
        self._links: dict[int, _Link] = {}
        self._closed: dict[int, None] = {}
        self._digest = digest_of(account.recording)
        self._trace = self._digest[:16] or "standard input"

    def moment(self, change: Change, events: list[Sighting]) -> None:
        """A record, and the events that it led to."""
        for make in self._makers:
            make(change, events)

    def alert(self, alert: dict[str, Any]) -> None:
        """The next alert."""
        self._alerts += 1
        if "alerts" in self._wanted:
            row = self._alert(self._alerts, alert)
            self._put("alerts", row, row[-1])

    def close(self) -> None:
        """The replay is over; nothing is added where nothing could be read."""
        if self._account.header is None:
            return
        while self.lives:
            self._bury(next(iter(self.lives)))
        while self._links:
            self._cut(next(iter(self._links)))
        if "traces" in self._wanted:
            self._put("traces", self._about(self._account, self._account.header))
        for table in self._rows:
            self._hand_on(table)

    def _put(self, table: str, row: Row, text: str = "") -> None:
        """Add a row; `text` is what may be long of it."""
        rows = self._rows[table]
        rows.append(row)
        self._held += len(text)
        if len(rows) == ROWS or self._held > TEXT_HELD:
            self._hand_on(table)

    def _hand_on(self, table: str) -> None:
        header, rows = self._account.header, self._rows[table]
        if rows:
            self._rows[table], self._held = [], 0
            self._write(header.host if header else "", table, rows)

    # --- which rows there are ---

    def _event(self, change: Change, events: list[Sighting]) -> None:
        for event in events or (None,):
            row = self._record(change, event)
            self._put("events", row, row[_COMMAND_LINE])

    def _query(self, change: Change, events: list[Sighting]) -> None:
        for event in events:
            if event.category == "dns_query":
                self._put("dns", self._question(change, event))

    def _live(self, change: Change, events: list[Sighting]) -> None:
        """What a record says of the life of its process."""
        process = change.process
        life = self.lives.get(process.key)
        if life is None:
            if not process.pid:  # 0 stands for none
                return
            life = self.lives[process.key] = _Life(process, change.agent)
            if len(self.lives) > PROCESSES_KEPT:
                self._bury(next(iter(self.lives)))
        if change.agent.number != HOST:
            life.agent = change.agent
        kind = change.type
        if kind == _FORK:
            life.began = life.began or change.time
        elif kind in _PROGRAMS:
            life.programs += 1
        elif kind == _EXIT:
            self._ended.setdefault(process.key)
            if len(self._ended) > ENDED_KEPT:
                self._bury(next(iter(self._ended)))

    def _bury(self, key: Key) -> None:
        self._ended.pop(key, None)
        life = self.lives.pop(key)
        self._put("processes", self._process(life), life.process.command_line)

    def _carry(self, change: Change, events: list[Sighting]) -> None:
        """What a record and its events say of its flow."""
        flow = change.flow
        if flow is None:
            return
        link = self._links.get(flow.cookie)
        if link is None:
            link = self._links[flow.cookie] = _Link(flow, change.process, change.agent)
            if len(self._links) > FLOWS_KEPT:
                self._cut(next(iter(self._links)))
        if change.agent.number != HOST and change.type in OF_FLOWS:  # detectors name flows of other records
            link.agent = change.agent
        for event in events:
            if behaviour := behaviour_of(event):
                link.behaviours[behaviour] = None
        if change.type == _CLOSE:
            self._closed.setdefault(flow.cookie)
            if len(self._closed) > CLOSED_KEPT:
                self._cut(next(iter(self._closed)))

    def _cut(self, cookie: int) -> None:
        self._closed.pop(cookie, None)
        self._put("flows", self._flow(self._links.pop(cookie)))

    # --- rows ---

    def _actor(self, process: Process) -> Row:
        """Its columns pid to cmdline, made once: the records of one process come again and again."""
        known = self._actors.get(process.key)
        if known is not None and known[0] is process.argv and known[1][2] is process.exe:
            return known[1]
        row = process.pid, self._account.wall(process.start), process.exe, process.command_line
        if len(row[3]) <= LONG:
            if len(self._actors) >= ACTORS_KEPT:
                self._actors.clear()
            self._actors[process.key] = process.argv, row
        return row

    def _record(self, change: Change, event: Sighting | None) -> Row:
        process = change.process if event is None else event.process
        flow = change.flow if event is None else event.flow or change.flow
        return (
            self._trace, self._account.wall(change.time), change.seq,
            _NAMES.get(change.type) or str(change.type),
            None if event is None else event.category,
            change.agent.name, *self._actor(process),
            None if flow is None else flow.cookie, *_ends(flow),
            *(_details(change, event) if self._details else _NO_DETAILS),
        )  # fmt: skip

    def _question(self, change: Change, event: Sighting) -> Row:
        fields = event.fields
        return (
            self._trace, self._account.wall(change.time), change.seq,
            change.agent.name, *self._actor(event.process)[:3],
            change.flow.remote if change.flow else None,
            fields.get("QueryName"), fields.get("QueryType"), fields.get("QueryStatus"),
            fields.get("QueryResults") or (),
        )  # fmt: skip

    def _process(self, life: _Life) -> Row:
        process, wall = life.process, self._account.wall
        status = process.status
        signal = None if status is None else status & 0x7F
        parent, parent_start = process.parent or (None, None)
        return (
            self._trace, wall(life.began or process.start), wall(process.ended) if process.ended else None,
            life.agent.name, *self._actor(process), process.argv, process.cwd,
            self._account.state.user_name(process.uid), parent,
            None if parent_start is None else wall(parent_start), life.programs,
            None if status is None or signal else status >> 8 & 0xFF, signal or None,
            sorted(process.truncated),
        )  # fmt: skip

    def _flow(self, link: _Link) -> Row:
        flow, wall = link.flow, self._account.wall
        protocol, *addresses, hostname = _ends(flow)
        return (
            self._trace, wall(flow.opened), wall(flow.closed) if flow.closed else None,
            link.agent.name, *self._actor(link.process)[:3], flow.cookie, flow.transport,
            protocol if self._recognised else None, *addresses, hostname if self._recognised else None,
            flow.initiated, flow.bytes_out, flow.bytes_in, flow.error,
            tuple(link.behaviours) if self._found else None,
        )  # fmt: skip

    def _alert(self, number: int, alert: dict[str, Any]) -> Row:
        rule, process, flow = alert["rule"], alert["process"], alert["flow"] or {}
        return (
            self._trace, wall_of(alert["time"]), number,
            rule["title"], rule["level"], rule["id"], rule["tags"],
            alert["verdict"], alert["response"], alert["acted"], alert["mode"],
            alert["agent"], process["pid"], wall_of(process["start_time"]) if process["pid"] else None,
            process["exe"], process["cmdline"],
            flow.get("protocol"), flow.get("local"), flow.get("remote"), flow.get("domain"),
            alert["evidence"], alert["completeness"]["state"] == "complete", alert["completeness"]["why"],
            alert["latency_us"], as_json(alert.get("markers") or {}), as_json(alert),
        )  # fmt: skip

    def _about(self, account: Account, header: TraceHeader) -> Row:
        outcome = account.outcome
        judged = self._wanted["traces"] >= Depth.JUDGED
        return (
            self._trace, account.wall(account.first), account.wall(account.last), account.name,
            self._digest, header.boot_id, header.kernel, header.rules_digest, " ".join(header.command),
            outcome.records, outcome.alerts if judged else None, sum(account.lost.values()),
            outcome.damaged, account.incomplete, account.unseen,
        )  # fmt: skip


def _ends(flow: Flow | None) -> Row:
    if flow is None:
        return _NO_ENDS
    return (
        flow.application or flow.transport, flow.local or None, flow.local_port or None,
        flow.remote or None, flow.remote_port or None, flow.domain or None,
    )  # fmt: skip


_NO_ENDS = (None,) * len(_ENDS)
_NO_DETAILS = (None, None, None)


def _details(change: Change, event: Sighting | None) -> Row:
    """Markers, fields and data."""
    if event is None:
        return "{}", as_json(_fields(change)), change.data or None
    return as_json(markers_of(event)), as_json(event_fields(event)), change.data or None


def event_fields(event: Sighting) -> dict[str, Any]:
    """What an event says besides who did it over which connection."""
    fields = event.fields
    # Values are made when they are asked for: not for those that have columns.
    return {name: value for name in fields if name not in _IN_COLUMNS and (value := fields.get(name)) != ()}


@cache
def _own_fields(number: int) -> tuple[tuple[int, str], ...]:
    """Places and names of a record's fields, but for those that have columns, and file contents."""
    known = BY_NUMBER.get(number)
    names = (one.name for one in known.fields) if known else ()
    return tuple((place, name) for place, name in enumerate(names) if name not in _BLOCK | _BULKY)


def _fields(change: Change) -> dict[str, Any]:
    """What a record says that led to no event."""
    known, fields = BY_NUMBER.get(change.type), change.fields
    if known is None or len(fields) != len(known.fields):
        return {}
    return {name: fields[place] for place, name in _own_fields(change.type)}


def as_json(value: dict[str, Any]) -> str:
    """Compact JSON in ASCII; bytes as hexadecimal digits."""
    return _ENCODER.encode(value) if value else "{}"


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


_ENCODER = json.JSONEncoder(default=_plain, separators=(",", ":"), sort_keys=True)
