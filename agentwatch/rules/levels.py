"""Sigma's levels, from the lowest to the highest."""

LEVELS = ("informational", "low", "medium", "high", "critical")
