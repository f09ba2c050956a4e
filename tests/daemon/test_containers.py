"""A container of crun's, as an engine starts one: found by its cgroup, named, frozen on a rule.

crun runs in a mount namespace where cgroup v2 alone is mounted, for hosts that have it beside version 1.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentwatch.control.client import Client
from agentwatch.kernel.cgroup import find_mount, remove_tree
from tests.daemon.configured import configured, find, table
from tests.lab import eventually

BUSYBOX = "/bin/busybox"
CRUN = 'mount -t cgroup2 none /sys/fs/cgroup && exec crun --root "$0" --cgroup-manager=cgroupfs "$@"'
RULE = """
title: A tool was fetched
id: 8a1c7a52-6d8c-4c0e-9f6b-0f6d3c8e5a13
logsource: {product: linux, category: process_creation}
detection:
  tool: {Image: /tmp/sleep}
  condition: tool
level: high
agentwatch: {response: pause}
"""
WORK = "until [ -e /go ]; do sleep 0.1; done; cp /bin/busybox /tmp/sleep; exec /tmp/sleep 600"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("crun") is None, reason="there is no crun here"),
]


class Container:
    """Its id is such as Podman gives; `root` is its root folder."""

    def __init__(self, folder: Path) -> None:
        self.id = secrets.token_hex(32)
        self.cgroup = f"agentwatch-test-{os.getpid()}/libpod-{self.id}"
        self.root = folder / "rootfs"
        self._folder = folder

    def crun(self, *arguments: str) -> str:
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", CRUN, self._folder / "state"]
        done = subprocess.run(
            [*map(str, enter), *arguments], cwd=self._folder, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if arguments[0] == "state" else subprocess.DEVNULL, text=True,
        )  # fmt: skip
        return done.stdout or ""

    def start(self) -> None:
        for tool in ("sh", "sleep", "cp"):
            (self.root / "bin" / tool).symlink_to("busybox")
        self.crun("spec")
        file = self._folder / "config.json"
        spec = json.loads(file.read_text())
        spec["process"] |= {"terminal": False, "args": ["/bin/sh", "-c", WORK]}
        spec["root"]["readonly"] = False
        spec["linux"] |= {"cgroupsPath": f"/{self.cgroup}", "resources": {}}
        file.write_text(json.dumps(spec))
        self.crun("run", "--detach", self.id)

    def state(self) -> dict[str, Any]:
        """What crun says of it."""
        found: dict[str, Any] = json.loads(self.crun("state", self.id))
        return found

    def delete(self) -> None:
        self.crun("delete", "--force", self.id)
        remove_tree(find_mount() / Path(self.cgroup).parent)


@contextmanager
def container(folder: Path) -> Iterator[Container]:
    made = Container(folder)
    (made.root / "bin").mkdir(parents=True)
    (made.root / "tmp").mkdir()
    if Path(BUSYBOX).exists():
        shutil.copy(BUSYBOX, made.root / "bin")
    if subprocess.run(["chroot", made.root, BUSYBOX, "true"], capture_output=True, check=False).returncode:
        pytest.skip("there is no static busybox here to make an image of")
    try:
        made.start()
        yield made
    finally:
        made.delete()


def test_a_container_is_found_by_its_cgroup_named_and_frozen_on_a_rule(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    select = f'cgroup = ["agentwatch-test-{os.getpid()}/libpod-*"]'
    with (
        configured(
            tmp_path,
            f'[rules]\npaths = ["{tmp_path / "rule.yml"}"]',
            table("containers", select, 'name = "podman-{container}"', 'mode = "enforce"'),
        ) as daemon,
        container(tmp_path / "bundle") as one,
        Client(daemon.socket) as client,
    ):
        name = f"podman-{one.id[:12]}"
        assert find(daemon, name)["cgroup"] == one.cgroup
        pid = one.state()["pid"]
        rows = daemon.ask("ps", agent=name)["processes"]
        assert (pid, ["/bin/sh", "-c", WORK]) in [(row["pid"], row["argv"]) for row in rows]
        alerts = client.follow("alerts", agent=name)
        next(alerts)
        (one.root / "go").touch()
        alert, _ = next(alerts)
        assert (alert["rule"]["title"], alert["acted"]) == ("A tool was fetched", "pause")
        assert alert["process"]["exe"] == "/tmp/sleep"
        assert one.state()["status"] == "paused"
        daemon.ask("resume", agent=name)
        assert one.state()["status"] == "running"
        assert daemon.ask("kill", agent=name)["processes"] == 0
        eventually(lambda: one.state()["status"] == "stopped")
        eventually(lambda: daemon.ask("agents") == [])
