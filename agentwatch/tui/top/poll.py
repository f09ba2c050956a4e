"""Asks a backend, again and again, in a thread of its own: keys never wait for an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentwatch.tui.top.backend import Backend, BackendError
from agentwatch.tui.top.model import Question

INTERVAL: Final = 0.5  # seconds between two looks
LEAST: Final = 0.1  # seconds between two looks, be there a reason for another or not
ALWAYS: Final = (Question("status", {}), Question("agents", {}))


@dataclass(slots=True)
class Look:
    """One look. `error`: why it is not whole; `gone`: nobody answers at all."""

    answers: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    gone: bool = False
    wanted: int = 0  # which wish it answers: see `Poller.want`


class Poller(threading.Thread):
    """Looks, and gives each look to `deliver`, which is called in this thread and calls `taken` once it
    is drawn: who draws slowly is not given more than it can draw."""

    def __init__(self, backend: Backend, deliver: Callable[[Look], object]) -> None:
        super().__init__(daemon=True, name="poll")
        self._backend, self._deliver = backend, deliver
        self._questions: Sequence[Question] = ()
        self._wish = 0
        self._change = threading.Condition()
        self._hurry = False
        self._taken = True
        self._stopping = False

    def want(self, questions: Sequence[Question]) -> int:
        """What else to ask from now on, at once for the first time; the number of this wish."""
        with self._change:
            self._questions = tuple(questions)
            self._wish += 1
            self._hurry = True
            self._change.notify()
            return self._wish

    def hurry(self) -> None:
        """Look now: something was done."""
        with self._change:
            self._hurry = True
            self._change.notify()

    def taken(self) -> None:
        """The last look was drawn."""
        with self._change:
            self._taken = True
            self._change.notify()

    def stop(self) -> None:
        with self._change:
            self._stopping = True
            self._change.notify()

    def run(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            with self._change:
                questions, wish, self._hurry, self._taken = self._questions, self._wish, False, False
            self._deliver(self._look(questions, wish))
            self._wait(began)

    def _look(self, questions: Sequence[Question], wish: int) -> Look:
        look = Look(wanted=wish)
        try:
            self._backend.connect()
            for question in (*ALWAYS, *questions):
                look.answers[question.verb] = self._backend.ask(question.verb, **question.arguments)
        except BackendError as error:
            look.error, look.gone = str(error), error.gone
        except Exception as error:  # a thread that ends in silence would leave an old picture standing
            look.error = f"this is a mistake in agentwatch: {error!r}"
        return look

    def _wait(self, began: float) -> None:
        def due() -> float:
            least = began + (LEAST if self._hurry else INTERVAL) - time.monotonic()
            return least if self._taken else max(least, LEAST)

        with self._change:
            while not self._stopping and (left := due()) > 0:
                self._change.wait(left)
