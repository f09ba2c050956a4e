"""A recording's answers, at any point of it.

A thread folds the recording through the one pipeline and stands still after the event that is wanted;
what is asked meanwhile sees the state of that moment. Forwards it goes on; backwards it begins anew.
"""

from __future__ import annotations

import bisect
import json
import threading
from array import array
from pathlib import Path
from typing import Any, Final

from agentwatch.control.protocol import ProtocolError
from agentwatch.control.view import View
from agentwatch.enrich.sighting import Sighting
from agentwatch.pipeline import Pipeline
from agentwatch.replay import Moment, Observer, Order, Outcome, Recording, Replay
from agentwatch.schema.events import HOST
from agentwatch.sinks.alerts import timestamp
from agentwatch.trace.error import TraceError
from agentwatch.trace.format import TraceHeader
from agentwatch.tui.top.backend import BackendError, Mark, Timeline

END: Final = 1 << 62  # a position behind every event
_PATIENCE: Final = 0.2  # seconds that a question waits for the thread


class _Abandoned(Exception):
    """Nobody waits for this run any more."""


class _Run(Observer):
    """One pass over the recording, in a thread of its own.

    It stands still between the event that is wanted, its alerts told, and whatever comes next.
    """

    def __init__(self, recording: Recording, order: Order, target: int) -> None:
        self.view: View | None = None
        self.header: TraceHeader | None = None
        self.position = self.read = 0
        self.ended = False
        self.error = ""
        self.outcome = Outcome()
        self.times = array("q")  # of the events seen, ns since boot
        self.marks: list[tuple[int, str]] = []  # of the alerts: position and level
        self._target = target
        self._due = 0  # the first position at which what is told now is known
        self._standing = self._abandoned = False
        self._change = threading.Condition()
        self._replay = Replay(recording, order, self._on_alert, self._on_progress, self)
        self._thread = threading.Thread(target=self._fold, daemon=True, name="replay")
        self._thread.start()

    def begin(self, pipeline: Pipeline, header: TraceHeader) -> None:
        agents = pipeline.state.agents
        self.view = View(pipeline, header.clock_offset, lambda: [n for n in agents if n != HOST])
        self.header = header

    def ready(self) -> None:
        self._stand()
        self._due = self.position + 1

    def event(self, event: Sighting) -> None:
        self._stand()
        assert self.view is not None
        self.view.note_event(event)
        self.times.append(min(event.time, END))
        self.position += 1
        self._due = self.position

    def _stand(self) -> None:
        """Until another event is wanted than the one that was seen last."""
        if self.position < self._target and not self._abandoned:
            return
        with self._change:
            self._standing = True
            self._change.notify_all()
            self._change.wait_for(lambda: self._abandoned or self.position < self._target)
            self._standing = False
            if self._abandoned:
                raise _Abandoned

    def _on_alert(self, line: bytes) -> None:
        alert = json.loads(line)
        assert self.view is not None
        self.view.note_alert(alert)
        self.marks.append((self._due, alert["rule"]["level"]))

    def _on_progress(self, done: int) -> None:
        self.read = done

    def _fold(self) -> None:
        try:
            self.outcome = self._replay.run()
        except _Abandoned:
            pass
        except (OSError, TraceError, ValueError) as error:
            self.error = str(error)
        finally:
            with self._change:
                self.ended = True
                self._change.notify_all()

    def go(self, target: int) -> None:
        """On to where so many events have been seen, or to the end; returns there."""
        with self._change:
            self._target = target
            self._change.notify_all()
            self._change.wait_for(lambda: self.ended or (self._standing and self.position >= target))

    def abandon(self) -> None:
        with self._change:
            self._abandoned = True
            self._change.notify_all()
        self._thread.join()


class Recorded:
    """A recording; at its end at first. `order` names other rules than those in it."""

    replay = True
    role = "read"

    def __init__(self, recording: Recording, order: Order | None = None) -> None:
        self.name = Path(recording[0]).name
        self._recording, self._order = recording, order or Order()
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._size = 0
        self.timeline: Timeline | None = None
        self._times = array("q")
        self._marks: tuple[Mark, ...] = ()
        self._seeking = False
        self._remarks: list[str] = []

    @property
    def busy(self) -> str:
        run = self._run
        if not self._seeking or run is None:
            return ""
        share = f" {min(99, 100 * run.read // self._size)} %" if self._size else ""
        return f"replaying{share}, {run.position:,} events"

    def connect(self) -> None:
        if self.timeline is not None:
            return
        with self._lock:
            self._size = sum(path.stat().st_size for path in self._recording if path.is_file())
            self._seeking = True
            self._run = run = _Run(self._recording, self._order, END)
            try:
                run.go(END)
            finally:
                self._seeking = False
            if run.view is None or run.header is None:
                raise BackendError(run.error or "; ".join(run.outcome.remarks) or "the trace holds nothing")
            self._remarks = [*run.outcome.remarks, *filter(None, [run.error])]
            offset = run.header.clock_offset
            self._times = array("q", (time + offset for time in run.times))
            total = len(self._times)
            self._marks = tuple(
                Mark(min(position, total), self._time(min(position, total)), level)
                for position, level in run.marks
            )
            self._tell(total)

    def _time(self, position: int) -> int:
        """When the last of so many events was, ns since 1970."""
        if not self._times:
            assert self._run is not None and self._run.header is not None
            return self._run.header.created
        return self._times[max(0, position - 1)]

    def _tell(self, position: int) -> None:
        total = len(self._times)
        self.timeline = Timeline(
            position, total, self._time(0), self._time(position), self._time(total), self._marks
        )

    def ask(self, verb: str, **arguments: Any) -> Any:
        if not self._lock.acquire(timeout=_PATIENCE):
            raise BackendError(self.busy or "replaying")
        try:
            if self._run is None or self._run.view is None or self.timeline is None:
                raise BackendError("the trace is not read yet")
            result = self._run.view.answer(verb, arguments)
            if verb == "status":
                result["time"] = timestamp(self.timeline.time, 0)
                result["verbs"], result["remarks"] = [], self._remarks
            return result
        except ProtocolError as error:
            raise BackendError(str(error)) from None
        finally:
            self._lock.release()

    def act(self, verb: str, **arguments: Any) -> Any:
        raise BackendError("this is a recording: nothing can be acted on")

    def seek(self, position: int) -> None:
        with self._lock:
            if self.timeline is None or self._run is None:
                raise BackendError("the trace is not read yet")
            target = max(0, min(position, self.timeline.total))
            # The last alerts are told when the recording ends, not after its last event.
            wanted = END if target == self.timeline.total else max(1, target)
            self._seeking = True
            try:
                if self._run.ended or self._run.position > wanted:
                    self._run.abandon()
                    self._run = _Run(self._recording, self._order, wanted)
                self._run.go(wanted)
            finally:
                self._seeking = False
            self._tell(self._run.position)

    def position_at(self, text: str) -> int:
        timeline = self.timeline
        if timeline is None:
            raise ValueError("the trace is not read yet")
        if text.strip().endswith("%"):
            share = max(0.0, min(100.0, float(text.strip().rstrip("% "))))
            time = timeline.began + int((timeline.ended - timeline.began) * share / 100)
        else:
            moment = Moment.parse(text.strip())
            time = moment.ns if moment.absolute else timeline.began + moment.ns
        return bisect.bisect_right(self._times, time)

    def close(self) -> None:
        with self._lock:
            if self._run is not None:
                self._run.abandon()
                self._run = None
