"""What came of an act."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """`result` is done, already or failed; times in ns since boot, 0 for never.

    `acted` is when the kernel had been told, `settled` when it had taken effect.
    """

    result: str
    error: str = ""
    acted: int = 0
    settled: int = 0
