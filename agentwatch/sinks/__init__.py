"""Sinks: where alerts go."""
