"""A helper process of the core: whose program it runs, and what becomes of one that cannot run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agentwatch.config.sinks import Sinks, plain
from agentwatch.daemon import helper as under_test
from agentwatch.daemon.helper import Helper
from tests.lab import eventually

HOSTILE = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"


def front(folder: Path) -> Helper:
    settings = {
        "socket": str(folder / "control.sock"),
        "act_group": "",
        "read_group": "",
        "sinks": plain(Sinks()),
    }
    return Helper(settings, "agentwatch.daemon.front", "the front")


def test_a_folder_that_the_daemon_is_started_in_offers_it_no_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "hostile"
    for name in ("agentwatch", "asyncio"):
        (hostile / name).mkdir(parents=True)
        (hostile / name / "__init__.py").write_text(HOSTILE)
    monkeypatch.chdir(hostile)
    helper = front(tmp_path)
    assert eventually(helper.receive) == [["serving"]]
    helper.close()
    assert not list(hostile.glob("*/imported"))


def test_one_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(under_test, "_RESTART_NS", 0)
    helper = front(tmp_path)
    with monkeypatch.context() as upgrade:  # the interpreter is being replaced
        upgrade.setattr(sys, "executable", str(tmp_path / "python3"))
        before = os.listdir("/proc/self/fd")
        assert helper.receive() == []
        assert not helper.send("metrics", {})
        assert len(os.listdir("/proc/self/fd")) == len(before)
    assert "the front cannot be started: " in capfd.readouterr().err
    assert eventually(helper.receive) == [["serving"]]
    helper.close()
