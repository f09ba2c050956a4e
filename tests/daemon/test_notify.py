"""What the service manager is told, on a real datagram socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agentwatch.daemon.notify import Notifier


def test_it_tells_what_happens_and_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "3600000000")
        notifier = Notifier()
        notifier.say("READY=1", "MAINPID=7")
        assert manager.recv(100) == b"READY=1\nMAINPID=7"
        notifier.alive()
        notifier.alive()
        notifier.say("STOPPING=1")
        assert manager.recv(100) == b"WATCHDOG=1"
        assert manager.recv(100) == b"STOPPING=1"  # alive is said twice an interval, not more
        notifier.close()


def test_nothing_is_said_where_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notifier = Notifier()
    notifier.say("READY=1")
    notifier.close()
