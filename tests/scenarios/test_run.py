"""Agents that misbehave are frozen and named rightly; honest ones that resemble them are not.

Everything is real: a network of namespaces with an SSH server and a stand-in pool, the probes,
the shipped rules, `agentwatch run --mode enforce`, and a replay of what it recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentwatch.demo import pool, sshd
from agentwatch.demo.hosts import PYTHON, Host, Lab
from agentwatch.demo.materials import clean_environment, make_repository
from tests.lab import compiled, script
from tests.lab.ssh import configured, git_clone, local_forward_in_use, remote_forward, renamed

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SECONDS = 60


@dataclass(frozen=True)
class Network:
    lab: Lab
    pool: Host
    account: sshd.Account


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Lab() as lab:
        yield Network(lab, lab.start("pool", [*PYTHON, "-m", "agentwatch.demo.pool"]), sshd.start(lab))


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    code: int
    errors: str
    alerts: list[dict[str, Any]]

    @property
    def paused(self) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert["acted"] == "pause"]


def watch(network: Network, tmp_path: Path, command: list[str], on_pause: str = "kill") -> Outcome:
    """Run a command in the network under enforcement, and check that its trace replays to the same bytes."""
    alerts, trace, again = tmp_path / "alerts", tmp_path / "trace", tmp_path / "again"
    run = [sys.executable, "-m", "agentwatch", "run", "--name", "scenario", "--mode", "enforce"]
    files = ["--alerts", str(alerts), "--record", str(trace), "--on-pause", on_pause]
    done = subprocess.run(
        [*run, *files, "--", *network.lab.inside(command)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=clean_environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=SECONDS,
        check=False,
    )
    replay = [sys.executable, "-m", "agentwatch", "replay", str(trace), "--alerts", str(again)]
    replayed = subprocess.run(replay, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert replayed.returncode == 0, replayed.stderr
    assert again.read_bytes() == alerts.read_bytes()
    return Outcome(
        done.returncode, done.stderr, [json.loads(line) for line in alerts.read_text().splitlines()]
    )


def is_below(alert: dict[str, Any], *images: str) -> bool:
    """Whether these programs stand in the ancestry, from the parent upwards."""
    names = [ancestor["exe"].rpartition("/")[2] for ancestor in alert["process"]["ancestors"]]
    return names[: len(images)] == list(images)


@pytest.mark.parametrize(
    ("command", "exe"),
    [
        (script("stratum_bytes"), "python3"),
        (script("stratum_daemon"), "python3"),
        (["IO_URING", "inline"], "io_uring_stratum"),
        (["IO_URING", "async"], "io_uring_stratum"),
        (["IO_URING", "sqpoll"], "io_uring_stratum"),
    ],
    ids=["single bytes", "double fork", "io_uring inline", "io_uring async", "io_uring sqpoll"],
)
def test_miners_are_frozen(network: Network, tmp_path: Path, command: list[str], exe: str) -> None:
    if command[0] == "IO_URING":
        command = [str(compiled("io_uring_stratum")), command[1]]
    tail = [str(tmp_path / "pid")] if "stratum_daemon" in command[-1] else []
    outcome = watch(
        network,
        tmp_path,
        ["sh", "-c", '"$@"; exit $?', "sh", *command, network.pool.ipv4, str(pool.PORT), *tail],
    )
    if outcome.code == 77:
        pytest.skip("no io_uring here")
    assert outcome.paused, outcome.errors
    alert = outcome.paused[0]
    assert alert["process"]["exe"].rpartition("/")[2].startswith(exe)
    assert alert["flow"]["protocol"] == "stratum"
    assert alert["flow"]["remote"] == f"{network.pool.ipv4}:{pool.PORT}"
    assert alert["flow"]["initiated"] is True
    assert alert["completeness"]["state"] == "complete"
    above = [ancestor["exe"].rpartition("/")[2] for ancestor in alert["process"]["ancestors"]]
    assert any(name.startswith(("dash", "bash", "sh")) for name in above)


@pytest.mark.parametrize("form", [remote_forward, renamed, configured])
def test_reverse_tunnels_are_frozen(
    network: Network, tmp_path: Path, form: Callable[[sshd.Account, int, Path], list[str]]
) -> None:
    outcome = watch(
        network, tmp_path, ["sh", "-c", '"$@"; exit $?', "sh", *form(network.account, 9, tmp_path)]
    )
    assert outcome.paused, outcome.errors
    alert = outcome.paused[0]
    program = "rsync-helper" if form is renamed else "ssh"
    assert alert["process"]["exe"].rpartition("/")[2] == program
    assert alert["flow"]["protocol"] == "ssh"
    assert alert["flow"]["remote"].startswith(network.account.host.ipv4)
    assert alert["event"]["Behaviour"] == "remote_forward"
    assert alert["event"]["Stage"] == "opened"
    assert is_below(alert, "dash") or is_below(alert, "bash")


@pytest.mark.parametrize("name", ["git clone over ssh", "ssh -L in use", "language server", "pip install"])
def test_honest_work_is_left_alone(network: Network, tmp_path: Path, name: str) -> None:
    commands: dict[str, Callable[[], list[str]]] = {
        "git clone over ssh": lambda: git_clone(
            network.account, make_repository(tmp_path), tmp_path / "clone"
        ),
        "ssh -L in use": lambda: local_forward_in_use(network.account),
        "language server": lambda: script("lsp_session"),
        "pip install": lambda: _pip_install(tmp_path),
    }
    outcome = watch(network, tmp_path, commands[name]())
    assert outcome.code == 0, outcome.errors
    assert outcome.alerts == []


def _pip_install(folder: Path) -> list[str]:
    """A package of nothing, from a local folder."""
    source = folder / "package"
    source.mkdir()
    (source / "pyproject.toml").write_text('[project]\nname = "nothing-at-all"\nversion = "1"\n')
    target = str(folder / "installed")
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--target", target]
    return [sys.executable, "-m", "pip", "install", "-q", *options, str(source)]
