"""Property tests share two processors with everything else: no verdict by the clock."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("agentwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentwatch")
