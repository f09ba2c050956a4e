"""The recorder: a process of its own that keeps the last of every agent in memory and writes traces.

`python -m agentwatch.daemon.recorder FD` with the core's link as descriptor FD. Its first message is
the settings. It masks secrets before it keeps anything. Only it waits for a disk; what it does not
take from the link in time the core drops and counts. It ends when the core does.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agentwatch.clock import now
from agentwatch.config.record import Incidents, Record
from agentwatch.daemon.link import Unpacker, pack
from agentwatch.rules.levels import LEVELS
from agentwatch.schema.decode import pack_notes
from agentwatch.schema.events import HOST, Type
from agentwatch.sinks.alerts import timestamp
from agentwatch.sources.base import Batch, BatchKind, Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.flight import FlightRecorder
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.index import build_index
from agentwatch.trace.past import Past
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.redact import Redactor
from agentwatch.trace.select import of_agent, select
from agentwatch.trace.shelf import Shelf
from agentwatch.trace.sign import Signer, read_signer
from agentwatch.trace.store import Rotation, segment_path
from agentwatch.trace.writer import TraceWriter

_READ: Final = 1 << 20
_TICK: Final = 0.25  # seconds between looks at what ends
_TIDY: Final = 60.0  # seconds between looks at the folders
_LINGER: Final = 2.0  # seconds in which the last records of an agent that is gone may come
_SHARE: Final = 4  # an incident takes this part of the room for all, then the next begins

Tell = Callable[..., None]


@dataclass(slots=True)
class _Incident:
    """One that is being written. Times are of the monotonic clock."""

    number: int
    name: str
    path: Path
    writer: TraceWriter
    began: float
    until: float
    is_failing: bool = False


class IncidentWriter:
    """Keeps the tapes, and writes an incident for an agent when there is an alert."""

    def __init__(
        self,
        limits: Incidents,
        folder: Path,
        header: TraceHeader,
        rules: bytes,
        signer: Signer | None,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._header, self._signer, self._tell, self._clock = (
            limits,
            header,
            signer,
            tell,
            clock,
        )
        self._shelf = Shelf(folder, limits.max_bytes, limits.max_age)
        self._level = LEVELS.index(limits.level)
        self._running: dict[int, _Incident] = {}
        self._gone: dict[int, float] = {}
        self._flight = FlightRecorder(
            header.layouts,
            header.byte_order,
            seconds=limits.before,
            max_bytes=limits.memory,
            rules=rules,
            digest=header.rules_digest,
        )

    def append(self, batches: Round) -> None:
        """A round, masked already."""
        self._flight.append(batches)
        for incident in self._running.values():
            if mine := select(batches, of_agent(incident.number)):
                incident.writer.append(mine)

    def alert(self, number: int, name: str, alert: Mapping[str, Any]) -> None:
        """An alert of this agent: the beginning of an incident, or one more in it."""
        if LEVELS.index(alert["level"]) < self._level:
            return
        incident = self._running.get(number)
        if incident is None:
            self._begin(number, name, alert)
        else:
            incident.until = self._clock() + self._limits.after

    def save(self, number: int, name: str, who: str) -> Path:
        """Write what is kept of an agent now, as a whole trace. Raises `TraceError`.

        An incident that is being written ends with it, and goes on in the next trace.
        """
        running = self._running.get(number)
        incident = running or self._begin(number, name, {"saved_by": who})
        if incident is None:
            raise TraceError("it cannot be written: see the daemon's log")
        if not incident.writer.flush():
            raise TraceError(f"{incident.path}: {incident.writer.status().last_error or 'the disk is slow'}")
        self._end(number)
        if running is not None and (rest := self._begin(number, name, {"continues": running.path.name})):
            rest.until = running.until
        return incident.path

    def gone(self, number: int) -> None:
        """An agent is watched no longer."""
        self._gone[number] = self._clock() + _LINGER

    def tick(self) -> None:
        """End what has to end."""
        clock = self._clock()
        for number, due in list(self._gone.items()):
            if clock >= due:
                del self._gone[number]
                self._end(number)
                self._flight.forget(number)
        for incident in list(self._running.values()):
            status = incident.writer.status()
            is_long = clock - incident.began >= self._limits.longest
            is_large = status.stored_bytes >= self._limits.max_bytes // _SHARE
            if clock >= incident.until or is_long or is_large:
                self._end(incident.number)
            elif status.state == "failing" and not incident.is_failing:
                incident.is_failing = True
                self._tell("said", f"the incident {incident.path} cannot be written: {status.last_error}")

    def tidy(self) -> None:
        """Make room."""
        for path in self._shelf.tidy([incident.path for incident in self._running.values()]):
            self._tell("said", f"the incident {path} was removed to make room")

    def close(self) -> None:
        for number in list(self._running):
            self._end(number)

    def _begin(self, number: int, name: str, cause: Mapping[str, Any]) -> _Incident | None:
        rules, digest = self._flight.rules
        told = self._flight.tape(number)
        header = replace(
            self._header,
            created=time.time_ns(),
            rules_digest=digest,
            agents=(name,),
            extra={**self._header.extra, "incident": {"agent": name, "number": number, **cause}},
        )
        try:
            self._shelf.make()
            path = self._shelf.place(name)
            writer = TraceWriter(
                path,
                header,
                rules=rules,
                signer=self._signer,
                backlog_bytes=4 * self._limits.memory + (32 << 20),
            )
        except (OSError, TraceError) as error:
            self._tell("said", f"an incident of agent {name} cannot be written: {error}")
            self._tell("lost", number, sum(map(_notes_of, told)), f"incident not written: {error}"[:200])
            return None
        for batches in told:
            writer.append(batches)
        clock = self._clock()
        incident = _Incident(number, name, path, writer, clock, clock + self._limits.after)
        self._running[number] = incident
        self._tell("said", f"writing the incident of agent {name} to {path}")
        self.tidy()
        return incident

    def _end(self, number: int) -> None:
        incident = self._running.pop(number, None)
        if incident is None:
            return
        status = incident.writer.close()
        if status.state != "closed" or status.lost_records:
            lost = status.lost_records or 1
            self._tell("said", f"the incident {incident.path} lacks {lost} records: {status.last_error}")
            self._tell("lost", number, lost, f"incident incomplete: {status.last_error}"[:200])
        self.tidy()


def _notes_of(batches: Round) -> int:
    """Records in a round, roughly: what was not written is told by its order of magnitude."""
    return sum(max(1, len(batch.data) // 128) for batch in batches)


class Continuous:
    """Records everything, file after file."""

    def __init__(
        self,
        limits: Record,
        folder: Path,
        header: TraceHeader,
        rules: bytes,
        signer: Signer | None,
        tell: Tell,
    ) -> None:
        self._tell = tell
        self._shelf = Shelf(folder, limits.max_bytes, limits.max_age)
        self._shelf.make()
        if before := self._unclosed():
            header = replace(header, extra={**header.extra, "after": before})
        self._path = self._shelf.place()
        self._error = ""
        self._lost = 0
        self.writer = TraceWriter(
            self._path,
            header,
            rules=rules,
            rotation=Rotation(limits.segment_bytes, limits.segment_age),
            signer=signer,
            snapshots=Past(rules, header.rules_digest),
        )
        tell("said", f"recording to {self._path}")

    def _unclosed(self) -> dict[str, str]:
        """The recording before this one and until when it tells, where its end is missing; said, too."""
        path = self._shelf.latest()
        if path is None:
            return {}
        try:
            index = build_index(path)
            if index.closed:
                return {}
            with TraceReader(path) as reader:
                offset = reader.header.clock_offset
        except TraceError:
            return {}
        last = max((entry.last_time for entry in index.entries), default=0)
        until = timestamp(last, offset) if last else ""
        self._tell("said", f"the recording {path} was not closed: nothing after {until or 'its beginning'}")
        return {"file": path.name, "until": until}

    def kept(self) -> int:
        """How many rounds are written, or told as a gap."""
        status = self.writer.status()
        return status.rounds + status.lost_rounds

    def tick(self) -> None:
        """Say what goes wrong, once."""
        status = self.writer.status()
        error = status.last_error if status.state == "failing" else ""
        if error and error != self._error:
            self._tell("said", f"the recording {status.path} cannot be written: {error}")
        self._error = error
        if status.lost_records > self._lost:
            self._tell("lost", HOST, status.lost_records - self._lost, f"not recorded: {status.last_error}")
            self._lost = status.lost_records

    def tidy(self) -> None:
        """Remove old files, but not the one that is written."""
        self._shelf.tidy([segment_path(self._path, self.writer.status().segment)])


class Recorder:
    """What the process does with what the core tells it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._redact: Callable[[Round], Round] | None = None
        self._incidents: IncidentWriter | None = None
        self._continuous: Continuous | None = None
        self._kept = 0
        self._tidied = time.monotonic()

    def take(self, message: list[Any]) -> None:
        """One message."""
        match message:
            case ["round", batches]:
                self._append(tuple([Batch(BatchKind(kind), data) for kind, data in batches]))
            case ["missed", records]:
                loss = (int(Type.LOSS), now(), HOST, 0, 0, 0, records, "not recorded")
                self._append((Batch(BatchKind.NOTES, pack_notes([loss])),))
            case ["alert", number, name, alert] if self._incidents is not None:
                self._incidents.alert(number, name, alert)
            case ["save", ticket, number, name, who]:
                self._save(ticket, number, name, who)
            case ["gone", number] if self._incidents is not None:
                self._incidents.gone(number)
            case ["settings", settings]:
                self._start(settings)

    def _start(self, settings: Mapping[str, Any]) -> None:
        header, rules = TraceHeader.unpack(settings["header"]), settings["rules"]
        folder = Path(settings["folder"])
        limits = Record(**{**settings["record"], "sign": None})
        if settings.get("resumed"):
            extra = {**header.extra, "resumed": True}
            header = replace(header, created=time.time_ns(), extra=extra)
        self._redact = None if limits.enabled else Redactor()  # the core masked it already
        signer = self._signer(settings["record"]["sign"])
        incidents = Incidents(**settings["incidents"])
        if incidents.enabled:
            where = folder / "incidents"
            self._incidents = IncidentWriter(incidents, where, header, rules, signer, self._tell)
        if limits.enabled:
            try:
                self._continuous = Continuous(limits, folder / "traces", header, rules, signer, self._tell)
            except (OSError, TraceError) as error:
                self._tell("said", f"nothing is recorded: {error}")
                self._tell("lost", HOST, 1, f"not recorded: {error}"[:200])

    def _signer(self, path: str | None) -> Signer | None:
        try:
            return read_signer(Path(path)) if path else None
        except TraceError as error:
            self._tell("said", f"traces are not signed: {error}")
            return None

    def _append(self, batches: Round) -> None:
        if self._redact is not None:
            batches = self._redact(batches)
        if self._incidents is not None:
            self._incidents.append(batches)
        if self._continuous is not None:
            self._continuous.writer.append(batches)

    def _save(self, ticket: int, number: int, name: str, who: str) -> None:
        try:
            if self._incidents is None:
                raise TraceError("the flight recorder is off: see [incidents] in the configuration")
            self._tell("saved", ticket, str(self._incidents.save(number, name, who)), "")
        except TraceError as error:
            self._tell("saved", ticket, "", str(error))

    def acknowledge(self) -> None:
        """Tell the core what is written: what is not would be lost with this process."""
        if self._continuous is not None and (kept := self._continuous.kept()) != self._kept:
            self._kept = kept
            self._tell("kept", kept)

    def tick(self) -> None:
        """To be called now and then."""
        parts = [part for part in (self._incidents, self._continuous) if part is not None]
        for part in parts:
            part.tick()
        if time.monotonic() - self._tidied >= _TIDY:
            self._tidied = time.monotonic()
            for part in parts:
                part.tidy()

    def close(self) -> None:
        """Write the ends."""
        if self._incidents is not None:
            self._incidents.close()
        if self._continuous is not None:
            self._continuous.writer.close()


def _serve(connection: socket.socket) -> None:
    """Until the core ends."""

    def tell(*message: Any) -> None:
        with suppress(OSError):
            connection.sendall(pack(message))

    recorder, unpacker = Recorder(tell), Unpacker()
    ticked = time.monotonic()
    with suppress(ConnectionError), selectors.DefaultSelector() as selector:
        # A reset ends it like an end: a core that is killed has not read all.
        selector.register(connection, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK):
                if not (data := connection.recv(_READ)):
                    break
                for message in unpacker.feed(data):
                    recorder.take(message)
            recorder.acknowledge()
            if time.monotonic() - ticked >= _TICK:
                ticked = time.monotonic()
                recorder.tick()
    recorder.close()


if __name__ == "__main__":
    # It ends with its core, which a terminal's Ctrl-C and a service manager's SIGTERM reach, too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # the event path goes first
    _serve(socket.socket(fileno=int(sys.argv[1])))
