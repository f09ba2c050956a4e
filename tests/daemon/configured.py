"""A daemon under a configuration, and what it is to find."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.daemon.service import Service, service
from tests.lab import Cgroup, eventually


def write(folder: Path, *tables: str, **top: str) -> Path:
    """A configuration in a folder; its path."""
    path = folder / "agentwatch.toml"
    path.write_text("\n".join([*(f"{key} = {value}" for key, value in top.items()), *tables]))
    return path


def table(id: str, select: str, *lines: str) -> str:
    return "\n".join(["[[agent]]", f'id = "{id}"', *lines, "[agent.select]", select])


@contextmanager
def configured(folder: Path, *tables: str) -> Iterator[Service]:
    with service(folder, "--config", str(write(folder, *tables))) as made:
        yield made


@contextmanager
def running(cgroup: Cgroup, command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command inside a cgroup, killed at the end."""
    with cgroup.popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def find(daemon: Service, name: str) -> dict[str, Any]:
    """An agent, as soon as the daemon has found it."""

    def found() -> dict[str, Any] | None:
        return next((one for one in daemon.ask("agents") if one["name"] == name), None)

    agent = eventually(found, 20)
    assert agent is not None
    return agent
