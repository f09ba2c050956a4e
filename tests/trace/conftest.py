"""Hypothesis does not judge by time: machines are busy."""

from hypothesis import settings

settings.register_profile("agentwatch", deadline=None)
settings.load_profile("agentwatch")
