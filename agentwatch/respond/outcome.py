"""What came of an act."""

from __future__ import annotations

from typing import NamedTuple

from agentwatch.schema.events import DONE


class Outcome(NamedTuple):
    """`response` is what was tried, `result` is done, already, failed, or held; `error` says why.

    `acted` is when the kernel had been told, `settled` when it had taken effect: ns since boot, 0
    for never.
    """

    response: str
    result: str
    error: str = ""
    acted: int = 0
    settled: int = 0

    @property
    def done(self) -> bool:
        """Whether things are now as was asked for."""
        return self.result in DONE
