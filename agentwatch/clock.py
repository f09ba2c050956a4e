"""The clock of all event times."""

from __future__ import annotations

import time


def now() -> int:
    """Nanoseconds since boot (CLOCK_BOOTTIME), as the probes and /proc count them."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
