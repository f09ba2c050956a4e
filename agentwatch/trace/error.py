"""What goes wrong with traces."""

from __future__ import annotations


class TraceError(Exception):
    """A trace that cannot be opened, created or understood; its text is meant for the user."""
