"""Set-up that all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# A run that decides about a change tries the same examples each time; others look for new ones.
settings.register_profile("decide", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
# A daemon of the host's would watch what tests start.
os.environ["AGENTWATCH_SOCKET"] = "/nonexistent/agentwatch.sock"

settings.load_profile("decide" if os.environ.get("CI") else "explore")
