"""The kernel's process connector, for real."""

from __future__ import annotations

import os
import select
import subprocess
from contextlib import closing

import pytest

from agentwatch.daemon.proc_events import ProcEvents

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_a_program_that_begins_is_told() -> None:
    with closing(ProcEvents()) as events, subprocess.Popen(["true"]) as process:
        seen: set[int] = set()
        while process.pid not in seen:
            assert select.select([events], [], [], 20)[0]
            pids, lost = events.read()
            assert not lost
            seen |= pids
        assert os.getpid() not in seen


def test_nothing_to_tell_is_not_waited_for() -> None:
    with closing(ProcEvents()) as events:
        events.read()
        assert events.read()[1] is False
