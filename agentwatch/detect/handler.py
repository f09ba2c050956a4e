"""What a detector does with the records of one type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from agentwatch.enrich.sighting import Sighting
from agentwatch.enrich.state import Change

Handler = Callable[[Change], Sequence[Sighting]]
"""The events that a change leads to, mostly none."""

NOTHING: Final[Sequence[Sighting]] = ()
