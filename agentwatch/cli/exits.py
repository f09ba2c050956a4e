"""Exit codes, the same for every verb, and the errors that lead to them."""

from __future__ import annotations

from enum import IntEnum

import click


class Exit(IntEnum):
    """What an exit code says, and in words. `run` passes on the command's own code instead of FINE."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    FINE = 0, "fine"
    FAILURE = 1, "failure"
    USAGE = 2, "wrong usage"
    FINDINGS = 3, "an alert at or above --fail-on, an agent left frozen, or a difference under --check"
    PRIVILEGE = 4, "a privilege or a feature of the kernel is missing"
    DAMAGED = 5, "the trace is damaged or partial"
    LOST = 6, "events were lost, under --strict"


class Failure(click.ClickException):
    """An error told in one sentence, with the exit code that goes with it."""

    def __init__(self, message: str, code: Exit = Exit.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # a class variable in click's annotations
