from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentwatch.kernel import bpf, tracefs
from agentwatch.kernel.bpf import BpfError, ProgramType
from tests.lab import hooks_on_calls

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_events_are_found_without_a_mounted_tracefs() -> None:
    number = tracefs._event("syscalls/sys_exit_openat")
    assert number
    assert tracefs._event("syscalls/sys_exit_unlinkat") not in (None, number)
    assert tracefs._event("syscalls/sys_exit_nonsense") is None


def test_a_mounted_tracefs_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = tmp_path / "events/syscalls/sys_exit_openat"
    event.mkdir(parents=True)
    (event / "id").write_text("4711\n")
    monkeypatch.setattr(tracefs, "_MOUNTED", tmp_path)
    tracefs._tracefs.cache_clear()
    try:
        assert tracefs._event("syscalls/sys_exit_openat") == 4711
    finally:
        tracefs._tracefs.cache_clear()


def test_calls_that_there_are_not_are_an_error() -> None:
    with pytest.raises(BpfError, match="no tracepoints"):
        tracefs.find_ends(["nonsense"])


def test_nothing_stays_attached_where_one_end_is_refused() -> None:
    before = hooks_on_calls()
    code = bytes.fromhex("b700000000000000 9500000000000000")  # return 0
    with bpf.load_program("nothing", ProgramType.TRACEPOINT, code) as program:
        ends = tracefs.find_ends(["getppid", "close"])
        with pytest.raises(BpfError, match="nonsense"):
            tracefs.attach_ends(program, {**ends, "nonsense": 0xFFFF_FFFF})
        assert hooks_on_calls() == before
        events = tracefs.attach_ends(program, ends)
        assert hooks_on_calls() == before + 2
        tracefs.detach_ends(events)
    assert hooks_on_calls() == before
