"""Replay: recordings through the one pipeline, one after the other or side by side. Never acts.

What is told of a recording depends on its files, on the rules and on the span asked for, and on
nothing else: side by side the same bytes come out in the same order as one after the other.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import tempfile
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, Protocol

from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change, State
from agentwatch.pipeline import Counters, Pipeline
from agentwatch.resources import RULES
from agentwatch.rules.engine import Engine
from agentwatch.rules.levels import LEVELS
from agentwatch.rules.load import load_rules
from agentwatch.rules.model import RuleSet
from agentwatch.sinks.alerts import encode, timestamp
from agentwatch.sources.base import Round
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import TraceHeader
from agentwatch.trace.reader import TraceReader
from agentwatch.trace.store import segment_paths

STANDARD_INPUT = Path("-")
SHOWN = 1 << 16  # bytes of a line of which only the beginning matters
AHEAD = 64  # recordings that may wait, done, for one before them: each holds a file open

Write = Callable[[bytes], object]
Recording = tuple[Path, ...]
"""The files of one recording, in their order."""


class ReplayError(Exception):
    """A replay that broke off though nothing is wrong with the trace; its text is meant for the user."""


# --- the span ----------------------------------------------------------------------------------

_MOMENT = re.compile(
    r"([12]\d{3}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_SECONDS = re.compile(r"\d{1,9}(?:\.(\d{1,9}))?", re.ASCII)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time: `absolute`, in ns since 1970, or else ns since the recording began."""

    ns: int
    absolute: bool

    @classmethod
    def parse(cls, text: str) -> Moment:
        """From RFC 3339 with a zone, or seconds. Raises ValueError."""
        if found := _SECONDS.fullmatch(text):
            whole, _, part = text.partition(".")
            return cls(int(whole) * 1_000_000_000 + int(part.ljust(9, "0")), absolute=False)
        found = _MOMENT.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is neither RFC 3339 with a zone nor seconds")
        day, clock, part, zone = found.groups()
        zone = "+00:00" if zone in "Zz" else zone
        seconds = (datetime.fromisoformat(f"{day}T{clock}{zone}") - _EPOCH) // timedelta(seconds=1)
        return cls(seconds * 1_000_000_000 + int((part or "").ljust(9, "0")), absolute=True)

    def since_boot(self, header: TraceHeader) -> int:
        """In ns since the boot of the recording's host."""
        return self.ns - header.clock_offset + (0 if self.absolute else header.created)

    def stamp(self, header: TraceHeader) -> str:
        """As alerts of this recording tell time: such texts compare as the times do."""
        return timestamp(self.ns, 0 if self.absolute else header.created)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for: `rules` other than the recorded ones, alerts from `begin` to `end` inclusive.

    Records outside of the span are folded as well. What is told of the span is what a replay of
    everything tells of it: processes that began before, flows that were open, limits on repetition.
    """

    rules: RuleSet | None = None
    begin: Moment | None = None
    end: Moment | None = None


# --- one recording -----------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a replay found besides its alerts. `highest` is an index of LEVELS, -1 without an alert.

    `remarks` are sentences about what is missing or odd; `damaged` is set by those that may have
    changed alerts. `lost`: the recording itself says that events were lost.
    """

    records: int = 0
    alerts: int = 0
    highest: int = -1
    damaged: bool = False
    lost: bool = False
    remarks: list[str] = field(default_factory=list)

    def remark(self, text: str, damaged: bool = True) -> None:
        self.remarks.append(text)
        self.damaged = self.damaged or damaged


class Observer:
    """Sees all that one recording's replay goes through, in its order. Each method may be left as it is."""

    categories: Collection[str] = ()
    """Of what it wants events besides those that a rule looks at."""

    def begin(self, pipeline: Pipeline, header: TraceHeader) -> None:
        """Nothing has been folded yet."""

    def ready(self) -> None:
        """All that a record led to has been told, but for alerts that wait for their act; the next one
        is folded when this returns."""

    def record(self, change: Change) -> None:
        """A record was folded; the events that it leads to come next."""

    def event(self, event: Sighting) -> None:
        """An event."""

    def alert(self, alert: dict[str, Any]) -> None:
        """An alert that is told."""


class Folding(Protocol):
    """What folds a recording: a pipeline, or less."""

    counters: Counters
    state: State

    def process(self, batches: Round) -> None:
        """Fold one round."""

    def finish(self) -> None:
        """No round follows."""


class Replay:
    """One recording through one pipeline.

    `write` gets each alert's line, `progress` the bytes read so far, `observer` everything. What
    `folding` makes folds the recording, in place of the pipeline with its rules.
    """

    def __init__(
        self,
        recording: Recording,
        order: Order,
        write: Write,
        progress: Callable[[int], object],
        observer: Observer | None = None,
        folding: Callable[[TraceHeader], Folding] | None = None,
    ) -> None:
        self._recording, self._order, self._make = recording, order, folding
        self._write, self._progress, self._observer = write, progress, observer
        self._outcome = Outcome()
        self._pipeline: Folding | None = None
        self._before: tuple[TraceHeader, bytes] | None = None
        self._span = ("", "~")
        self._read = 0

    def run(self) -> Outcome:
        """Replay from the beginning to the end; what is damaged is remarked on and the rest goes on."""
        for path in self._recording:
            name = "" if len(self._recording) == 1 else f"{path.name}: "
            try:
                with TraceReader("-" if path == STANDARD_INPUT else path) as reader:
                    self._fold(reader, name)
            except TraceError as error:
                self._outcome.remark(f"{name}{error}")
        if self._pipeline is not None:
            self._pipeline.finish()
            self._sum_up(self._pipeline)
        return self._outcome

    def _fold(self, reader: TraceReader, name: str) -> None:
        self._check_place(reader, name)
        if self._pipeline is None:
            self._pipeline = self._begin(reader)
            for batches in reader.snapshot:
                self._pipeline.process(batches)
        pipeline, start = self._pipeline, self._read
        for frame in reader.frames():
            for batches in reader.rounds(frame):
                pipeline.process(batches)
            self._read = start + reader.offset
            self._progress(self._read)
        for damage in reader.damage:
            self._outcome.remark(f"{name}{damage}")
        self._before = reader.header, reader.digest

    def _check_place(self, reader: TraceReader, name: str) -> None:
        """Whether this file is the one that is due: the first, or the next."""
        header = reader.header
        if self._before is None:
            if header.segment:
                known = "told in short" if reader.snapshot else "not known"
                text = f"{name}is file {header.segment} of its recording: what came before is {known}"
                self._outcome.remark(text)
            return
        earlier, digest = self._before
        if (header.segment, header.previous) != (earlier.segment + 1, digest):
            text = "does not follow the file before it: something is missing between them"
            self._outcome.remark(f"{name}{text}")

    def _begin(self, reader: TraceReader) -> Folding:
        header, order = reader.header, self._order
        if header.byte_order != "little":
            raise TraceError("its records are those of a big-endian machine, which cannot be read yet")
        if self._make is not None:
            return self._make(header)
        self._span = (
            order.begin.stamp(header) if order.begin else "",
            order.end.stamp(header) if order.end else "~",  # after every digit
        )
        rules = order.rules or self._recorded_rules(reader)
        try:
            engine = Engine(rules, clock_offset=header.clock_offset)
        except ValueError as error:
            raise TraceError(f"the rules cannot be evaluated ({error}); name others with --rules") from None
        observer = self._observer
        state = State(header.users, header.training)
        pipeline = Pipeline(
            engine,
            state=state,
            sinks=[self._alert],
            clock_offset=header.clock_offset,
            reloads=order.rules is None,
            excerpt=header.is_excerpt or header.segment > 0,  # records are counted from here
            categories=observer.categories if observer else (),
            onlooker=observer,
        )
        if observer is not None:
            pipeline.tap = observer.event
            observer.begin(pipeline, header)
        return pipeline

    def _recorded_rules(self, reader: TraceReader) -> RuleSet:
        expected = reader.header.rules_digest
        if not reader.rules:
            rules = load_rules([RULES])
            if expected not in ("", rules.digest):
                text = "the trace lacks its rules, and the shipped ones are others: alerts may differ"
                self._outcome.remark(f"{text}; name its own with --rules")
            return rules
        try:
            rules = RuleSet.from_bytes(reader.rules)
        except ValueError as error:
            raise TraceError(
                f"the rules in the trace cannot be read ({error}); name some with --rules"
            ) from None
        if rules.digest != expected:
            self._outcome.remark("the rules in the trace are not those that its header names")
        return rules

    def _alert(self, alert: dict[str, Any]) -> None:
        begin, end = self._span
        if begin <= alert["time"] <= end:
            self._outcome.alerts += 1
            self._outcome.highest = max(self._outcome.highest, LEVELS.index(alert["rule"]["level"]))
            self._write(line_of(alert))
            if self._observer is not None:
                self._observer.alert(alert)

    def _sum_up(self, pipeline: Folding) -> None:
        outcome, counters = self._outcome, pipeline.counters
        outcome.records = counters.records
        if counters.unreadable:
            outcome.remark(f"{counters.unreadable} records or batches cannot be read, and were left out")
        outcome.lost = any(agent.lost for agent in pipeline.state.agents.values())


def line_of(alert: dict[str, Any]) -> bytes:
    """An alert as it stands in a file of alerts."""
    return encode(alert).encode("ascii") + b"\n"


# --- which files -------------------------------------------------------------------------------


def recordings(paths: Iterable[Path]) -> list[Recording]:
    """The recordings that these files are of, each with its files in order.

    Whoever names the first file of a recording means all that lie beside it; whoever names a
    later one means that. Files belong together by their mark, not by their names.
    """
    found: list[dict[int, Path]] = []
    by_mark: dict[bytes, dict[int, Path]] = {}
    for path in paths:
        place = _place(path)
        if place is None:
            found.append({0: path})
            continue
        mark, segment = place
        files = by_mark.get(mark)
        if files is None or segment in files:
            files = by_mark[mark] = {}
            found.append(files)
        files[segment] = path
    for mark, files in by_mark.items():
        if 0 in files:
            for path in segment_paths(files[0])[1:]:
                place = _place(path)
                if place is not None and place[0] == mark:
                    files.setdefault(place[1], path)
    return [tuple(path for _, path in sorted(files.items())) for files in found]


def _place(path: Path) -> tuple[bytes, int] | None:
    """A file's mark and number in its recording; None where it must be read to know."""
    if path == STANDARD_INPUT or not path.is_file():
        return None
    try:
        with TraceReader(path) as reader:
            return reader.mark, reader.header.segment
    except TraceError:
        return None


# --- side by side ------------------------------------------------------------------------------


def replay_all(
    work: Sequence[Recording],
    order: Order,
    write: Write,
    *,
    jobs: int,
    progress: Callable[[int, int], object],
) -> Iterator[Outcome]:
    """Replay these recordings on `jobs` processes; their outcomes in order.

    The alerts of a recording have gone to `write`, whole lines at a time, when its outcome is
    given. `progress` gets a recording's index and how many of its bytes were read. Alerts of those
    that overtake others wait in temporary files. Raises `ReplayError`.
    """
    if jobs == 1 or len(work) == 1 or (STANDARD_INPUT,) in work:  # which no other process can read
        for index, recording in enumerate(work):
            yield Replay(recording, order, write, lambda done, index=index: progress(index, done)).run()  # type: ignore[misc]
        return
    workers: dict[int, _Worker] = {}
    waiting = iter(enumerate(work))
    following = next(waiting, None)
    try:
        for due in count():
            while due not in workers or workers[due].outcome is None:
                running = {w.pipe: index for index, w in workers.items() if w.outcome is None}
                while following and len(running) < jobs and following[0] < due + AHEAD:
                    index, recording = following
                    workers[index] = _Worker(recording, order)
                    running[workers[index].pipe] = index
                    following = next(waiting, None)
                if not running:
                    return
                for pipe in wait(list(running)):
                    assert isinstance(pipe, Connection)
                    if (done := workers[running[pipe]].hear()) is not None:
                        progress(running[pipe], done)
            worker = workers.pop(due)
            worker.hand_over(write)
            assert worker.outcome is not None
            yield worker.outcome
    finally:
        for worker in workers.values():
            worker.end()


# Nothing is pickled on the way in, and rules that were loaded are shared. There are no threads to
# get in the way.
_FORK = multiprocessing.get_context("fork")


class _Worker:
    """A process that replays one recording into a temporary file without a name."""

    def __init__(self, recording: Recording, order: Order) -> None:
        self.outcome: Outcome | None = None
        self._alerts = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        self.pipe, theirs = _FORK.Pipe(duplex=False)
        work = recording, order, self._alerts, theirs
        self._process = _FORK.Process(target=_work, args=work, daemon=True)
        self._process.start()
        theirs.close()

    def hear(self) -> int | None:
        """What the process has to say: bytes read so far, or its outcome, which is kept."""
        try:
            said = self.pipe.recv()
        except EOFError:
            self._process.join()
            raise ReplayError(f"a worker ended with {self._process.exitcode}") from None
        if isinstance(said, str):
            raise ReplayError(said)
        if isinstance(said, Outcome):
            self.outcome = said
            self._process.join()
            return None
        return int(said)

    def hand_over(self, write: Write) -> None:
        """Pass the alerts on, in pieces, and let go of everything."""
        self._alerts.seek(0)
        for line in self._alerts:
            write(line)
        self.end()

    def end(self) -> None:
        if self._process.is_alive():
            self._process.terminate()
        self._process.join()
        self.pipe.close()
        self._alerts.close()


def _work(recording: Recording, order: Order, alerts: IO[bytes], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says what there is to say
    try:
        outcome = Replay(recording, order, alerts.write, pipe.send).run()
        alerts.flush()
    except OSError as error:
        pipe.send(f"alerts cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}")
    except Exception:
        pipe.send(traceback.format_exc())
    else:
        pipe.send(outcome)


# --- comparing ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Line `number`, from 1, is `earlier` in the one file and `now` in the other; empty where it ends."""

    number: int
    earlier: bytes
    now: bytes


class Comparison:
    """Compares lines, as they come, with those of an earlier file; holds one at a time."""

    def __init__(self, earlier: IO[bytes]) -> None:
        self.difference: Difference | None = None
        self._earlier = earlier
        self._number = 0

    def write(self, line: bytes) -> None:
        """The next line, whole."""
        self._number += 1
        if self.difference is None and (known := self._earlier.readline(len(line))) != line:
            if known and not known.endswith(b"\n"):
                known += self._earlier.readline(SHOWN)
            self.difference = Difference(self._number, known, line)

    def finish(self) -> Difference | None:
        """No line follows: the first difference, if there is one."""
        if self.difference is None and (known := self._earlier.readline(SHOWN)):
            self.difference = Difference(self._number + 1, known, b"")
        return self.difference
