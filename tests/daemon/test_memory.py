"""What outlives the daemon is found again, or said to be lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentwatch.daemon.memory import Memory, Remembered

JOB = Remembered("job", "/sys/fs/cgroup/job", 7, "enforce", "kill", "cgroup job*", True, "a rule")


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "agents.json")
    assert memory.load() == []
    memory.save([JOB])
    assert Memory(tmp_path / "agents.json").load() == [JOB]
    assert (tmp_path / "agents.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 2, "agents": []}', '{"version": 1, "agents": [{"name": "x"}]}', "\x00"],
)
def test_what_cannot_be_read_is_put_aside_and_said(tmp_path: Path, content: str) -> None:
    path = tmp_path / "agents.json"
    path.write_text(content)
    memory = Memory(path)
    assert memory.load() == []
    assert str(path) in memory.problem
    assert path.with_suffix(".unreadable").read_text() == content
    memory.save([JOB])
    assert memory.load() == [JOB]


def test_a_torn_write_leaves_the_state_before(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "agents.json")
    memory.save([JOB])
    (tmp_path / "agents.new").write_text('{"version": 1, "age')  # the writer was killed here
    assert memory.load() == [JOB]
    memory.save([])
    assert json.loads((tmp_path / "agents.json").read_text())["agents"] == []
