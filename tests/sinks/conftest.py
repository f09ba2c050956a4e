from __future__ import annotations

import pytest

from agentwatch.sinks import outlet


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are tried again soon."""
    monkeypatch.setattr(outlet, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(outlet, "LAST_RETRY", 0.02)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs is given up soon; on a busy machine what works, too."""
    monkeypatch.setattr(outlet, "DELIVER_SECONDS", 0.2)
