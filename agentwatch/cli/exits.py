"""Exit codes, the same for every verb, and the errors that lead to them."""

from __future__ import annotations

from enum import IntEnum

import click


class Exit(IntEnum):
    """What an exit code says. `run` passes on the command's own code instead of FINE."""

    FINE = 0
    FAILURE = 1
    USAGE = 2
    FINDINGS = 3  # at or above --fail-on, or a difference under --check
    PRIVILEGE = 4  # missing privilege or kernel feature
    DAMAGED = 5  # damaged or partial trace
    LOST = 6  # events lost under --strict


class Failure(click.ClickException):
    """An error told in one sentence, with the exit code that goes with it."""

    def __init__(self, message: str, code: Exit = Exit.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # a class variable in click's annotations
