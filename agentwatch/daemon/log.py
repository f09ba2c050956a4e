"""What the daemon says: its processes have one log."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line to the journal, which systemd reads from standard error."""
    print(f"agentwatch: {text}", file=sys.stderr, flush=True)
