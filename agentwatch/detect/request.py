"""What detectors may ask of the source. The answers come back as records, so that a replay has them."""

from __future__ import annotations

from typing import Protocol

from agentwatch.enrich.state import Change


class Requests(Protocol):
    """Asked live of the source; a replay has the answers in the trace and asks nobody."""

    def read_file(self, path: str, change: Change) -> None:
        """Read a file as the process of this change would; it comes back as a `file` record."""

    def follow(self, cookie: int) -> None:
        """Report the traffic of a flow beyond its first messages."""

    def unfollow(self, cookie: int) -> None:
        """Report no more of it than of any other."""


class NoRequests:
    """Asks nobody."""

    def read_file(self, path: str, change: Change) -> None:
        """Nothing."""

    def follow(self, cookie: int) -> None:
        """Nothing."""

    def unfollow(self, cookie: int) -> None:
        """Nothing."""
