"""A helper process of the core: whose program it runs, and what becomes of one that cannot run."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentwatch import module
from agentwatch.config.record import Incidents, Record
from agentwatch.config.sinks import Sinks, plain
from agentwatch.daemon import helper as under_test
from agentwatch.daemon.helper import Helper
from agentwatch.daemon.link import pack
from agentwatch.trace.verify import verify
from tests.lab import eventually
from tests.recordings import header, rules_for

HOSTILE = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def front_settings(folder: Path) -> dict[str, Any]:
    socket_path = str(folder / "control.sock")
    return {"socket": socket_path, "act_group": "", "read_group": "", "sinks": plain(Sinks())}


def recorder_settings(folder: Path) -> dict[str, Any]:
    rules = rules_for(folder)
    return {
        "folder": str(folder),
        "header": header(rules).pack(),
        "rules": rules.to_bytes(),
        "incidents": plain(Incidents()),
        "record": plain(Record(enabled=True)),
    }


def front(folder: Path) -> Helper:
    return Helper(front_settings(folder), "agentwatch.daemon.front", "the front")


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
        before = descriptors()
        assert helper.receive() == []
        assert not helper.send("metrics", {})
        assert descriptors() == before
    assert "the front cannot be started: " in capfd.readouterr().err
    assert eventually(helper.receive) == [["serving"]]
    helper.close()


@pytest.mark.parametrize("name", ["front", "recorder"])
def test_one_whose_core_was_killed_ends_in_order(tmp_path: Path, name: str) -> None:
    """What it said was not read: its end of the link is reset, not closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            module.command(f"agentwatch.daemon.{name}", str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            cwd=module.HOME,
            env=module.environment(),
            stderr=subprocess.PIPE,
        )
    settings = {"front": front_settings, "recorder": recorder_settings}[name](tmp_path)
    ours.sendall(pack(["settings", settings]))
    assert select.select([ours], [], [], 20)[0]
    ours.close()
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, b"")
    assert not (tmp_path / "control.sock").exists()
    assert all(verify(path).closed for path in (tmp_path / "traces").glob("*"))
