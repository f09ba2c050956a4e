"""inotify, on files and on cgroupfs."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentwatch.kernel import inotify
from agentwatch.kernel.inotify import Inotify, Notice
from tests.lab import Cgroup, needs_root


@pytest.fixture
def watching() -> Iterator[Inotify]:
    with closing(Inotify()) as made:
        yield made


def test_directories_that_come_are_told_by_their_path(watching: Inotify, tmp_path: Path) -> None:
    assert watching.watch(tmp_path, inotify.CREATE)
    (tmp_path / "one").mkdir()
    (tmp_path / os.fsdecode(b"\xff")).touch()
    told = list(watching.read())
    assert told == [
        Notice(tmp_path / "one", inotify.CREATE | inotify.IS_DIRECTORY),
        Notice(tmp_path / os.fsdecode(b"\xff"), inotify.CREATE),
    ]
    assert list(watching.read()) == []


def test_what_is_gone_is_forgotten(watching: Inotify, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert watching.watch(folder, inotify.CREATE)
    folder.rmdir()
    assert list(watching.read()) == []
    assert watching._paths == {}
    assert not watching.watch(folder, inotify.CREATE)


@needs_root
def test_a_cgroup_that_gets_its_first_process_is_told(watching: Inotify) -> None:
    with Cgroup("inotify") as cgroup:
        events = cgroup.path / "cgroup.events"
        assert watching.watch(events, inotify.MODIFY)
        with cgroup.popen(["sleep", "600"]) as process:
            assert select.select([watching], [], [], 20)[0]
            assert Notice(events, inotify.MODIFY) in list(watching.read())
            process.kill()
