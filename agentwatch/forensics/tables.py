"""The tables that a recording is exported and queried as, and the rows that a story gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change
from agentwatch.forensics.story import Life, Link, Listener, Story, digest_of, markers_of, wall_of
from agentwatch.schema.events import BY_NUMBER, SOCKET_BLOCK
from agentwatch.schema.fields import CONNECTION, PROCESS

Row = tuple[Any, ...]
WriteRow = Callable[[str, str, Row], object]
"""Takes host, table and row."""


class Column(NamedTuple):
    """`kind` is time (ns since 1970), text, int, bool, bytes, json (text), texts or ints (lists)."""

    name: str
    kind: str
    doc: str


_TRACE = Column("trace", "text", "which trace: see the table traces")
_WHO = (
    Column("agent", "text", "name of the agent"),
    Column("pid", "int", "process id in the initial pid namespace"),
    Column("process_start", "time", "when the process began: with trace and pid, its identity"),
    Column("exe", "text", "path of its program"),
)
_ENDS = (
    Column("protocol", "text", "application protocol as recognised from the bytes, else the transport"),
    Column("source_ip", "text", "local address"),
    Column("source_port", "int", "local port"),
    Column("destination_ip", "text", "remote address"),
    Column("destination_port", "int", "remote port"),
    Column("hostname", "text", "name of the remote side: from a DNS answer, or asked of a proxy"),
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
        Column("markers", "json", "markers on the event, such as run and tool call"),
        Column("fields", "json", "what the event says besides"),
        Column("data", "bytes", "of payloads: the bytes captured"),
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
        Column("behaviours", "texts", "what was found of it: remote_forward opened, ..."),
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
        Column("alerts", "int", "alerts told"),
        Column("lost", "int", "events that the recording says were lost"),
        Column("damaged", "bool", "whether something is missing or was changed"),
        Column("missing", "texts", "what is damaged, missing or was lost"),
        Column("not_seen", "texts", "what could not be watched on that host"),
    ),
}
"""Every table begins with the trace and a time, by whose date it is partitioned."""

_IN_COLUMNS = frozenset(one.name for one in (*PROCESS, *CONNECTION)) | {"Markers"}
_BLOCK = frozenset(one.name for one in SOCKET_BLOCK)
_BULKY = frozenset(("content",))


class Tables(Listener):
    """Turns a story into rows of the tables named; `close` adds the row about the trace itself."""

    def __init__(self, write: WriteRow, wanted: Collection[str] = tuple(TABLES)) -> None:
        self._write = write
        self._wanted = frozenset(wanted)
        self._story: Story | None = None
        self._events, self._dns = "events" in self._wanted, "dns" in self._wanted

    def begin(self, story: Story) -> None:
        self._story, self._wall, self._user = story, story.wall, story.state.user_name
        self._host = story.header.host if story.header else ""
        self._digest = digest_of(story.recording)
        self._trace = self._digest[:16] or "standard input"

    def moment(self, change: Change, events: list[Sighting], life: Life) -> None:
        if self._events:
            for event in events or (None,):
                self._put("events", self._event(change, event))
        if self._dns:
            for event in events:
                if event.category == "dns_query":
                    self._put("dns", self._query(change, event))

    def process(self, life: Life) -> None:
        if "processes" in self._wanted:
            self._put("processes", self._process(life))

    def link(self, link: Link) -> None:
        if "flows" in self._wanted:
            self._put("flows", self._flow(link))

    def alert(self, number: int, alert: dict[str, Any], life: Life | None, link: Link | None) -> None:
        if "alerts" in self._wanted:
            self._put("alerts", self._alert(number, alert, life))

    def _put(self, table: str, row: Row) -> None:
        self._write(self._host, table, row)

    def close(self) -> None:
        """The story has been told; nothing is added where none could be."""
        if "traces" not in self._wanted or self._story is None:
            return
        story = self._story
        header = story.header
        assert header is not None
        row = (
            self._trace, self._wall(story.first), self._wall(story.last), story.name, self._digest,
            header.boot_id, header.kernel, header.rules_digest, " ".join(header.command),
            story.outcome.records, story.outcome.alerts, sum(story.lost.values()),
            story.outcome.damaged, story.incomplete, story.unseen,
        )  # fmt: skip
        self._put("traces", row)

    def _who(self, agent: str, process: Process) -> Row:
        return agent, process.pid, self._wall(process.start), process.exe

    def _event(self, change: Change, event: Sighting | None) -> Row:
        process = change.process if event is None else event.process
        flow = change.flow if event is None else event.flow or change.flow
        known = BY_NUMBER.get(change.type)
        return (
            self._trace, self._wall(change.time), change.seq,
            known.name if known else str(change.type),
            None if event is None else event.category,
            *self._who(change.agent.name, process), process.command_line,
            None if flow is None else flow.cookie, *_ends(flow),
            as_json({} if event is None else markers_of(event)),
            as_json(_fields(change) if event is None else event_fields(event)),
            change.data or None,
        )  # fmt: skip

    def _query(self, change: Change, event: Sighting) -> Row:
        fields = event.fields
        return (
            self._trace, self._wall(change.time), change.seq,
            *self._who(change.agent.name, event.process),
            change.flow.remote if change.flow else None,
            fields.get("QueryName"), fields.get("QueryType"), fields.get("QueryStatus"),
            fields.get("QueryResults") or (),
        )  # fmt: skip

    def _process(self, life: Life) -> Row:
        process = life.process
        status = process.status
        signal = None if status is None else status & 0x7F
        parent, parent_start = process.parent or (None, None)
        return (
            self._trace, self._wall(life.began or process.start),
            self._wall(process.ended) if process.ended else None,
            *self._who(life.agent, process), process.command_line, process.argv, process.cwd,
            self._user(process.uid), parent,
            None if parent_start is None else self._wall(parent_start), life.programs_run,
            None if status is None or signal else status >> 8 & 0xFF, signal or None,
            sorted(process.truncated),
        )  # fmt: skip

    def _flow(self, link: Link) -> Row:
        flow = link.flow
        return (
            self._trace, self._wall(flow.opened), self._wall(flow.closed) if flow.closed else None,
            *self._who(link.owner.agent, link.owner.process), flow.cookie, flow.transport, *_ends(flow),
            flow.initiated, flow.bytes_out, flow.bytes_in, flow.error, tuple(link.behaviours),
        )  # fmt: skip

    def _alert(self, number: int, alert: dict[str, Any], life: Life | None) -> Row:
        rule, process, flow = alert["rule"], alert["process"], alert["flow"] or {}
        start = None if life is None else self._wall(life.process.start)
        return (
            self._trace, wall_of(alert["time"]), number,
            rule["title"], rule["level"], rule["id"], rule["tags"],
            alert["verdict"], alert["response"], alert["acted"], alert["mode"],
            alert["agent"], process["pid"], start, process["exe"], process["cmdline"],
            flow.get("protocol"), flow.get("local"), flow.get("remote"), flow.get("domain"),
            alert["evidence"], alert["completeness"]["state"] == "complete", alert["completeness"]["why"],
            alert["latency_us"], as_json(alert.get("markers") or {}), as_json(alert),
        )  # fmt: skip


def _ends(flow: Flow | None) -> Row:
    if flow is None:
        return (None,) * len(_ENDS)
    return (
        flow.application or flow.transport, flow.local or None, flow.local_port or None,
        flow.remote or None, flow.remote_port or None, flow.domain or None,
    )  # fmt: skip


def event_fields(event: Sighting) -> dict[str, Any]:
    """What an event says besides who did it over which connection."""
    return {name: value for name, value in event.fields.items() if name not in _IN_COLUMNS and value != ()}


def _fields(change: Change) -> dict[str, Any]:
    """The fields of a record that led to no event, but for those that have columns, and file contents."""
    known = BY_NUMBER.get(change.type)
    if known is None or len(change.fields) != len(known.fields):
        return {}
    pairs = zip((one.name for one in known.fields), change.fields, strict=True)
    return {name: value for name, value in pairs if name not in _BLOCK and name not in _BULKY}


def as_json(value: dict[str, Any]) -> str:
    """Compact JSON in ASCII; bytes as hexadecimal digits."""
    return _ENCODER.encode(value) if value else "{}"


def _plain(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else str(value)


_ENCODER = json.JSONEncoder(default=_plain, separators=(",", ":"), sort_keys=True)
