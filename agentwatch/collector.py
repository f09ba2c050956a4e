"""Python's collector of cycles, told what an event path is like."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 50_000  # made between looks for cycles; Python's own 700 cost a replay a tenth


def settle() -> None:
    """Once everything that stays is there: the collector leaves it alone from here on, and looks seldom.

    What records are folded into makes next to no cycles: to go through all of it again and again
    finds nothing, and is a pause on the event path.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
