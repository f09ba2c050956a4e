"""The programs do what they claim, to a pool and to a server that are really there."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentwatch.demo import pool, sshd
from agentwatch.demo.hosts import PYTHON, Host, Lab
from agentwatch.demo.materials import clean_environment, make_repository
from tests.lab import compiled, eventually, needs_root, script
from tests.lab.ssh import configured, git_clone, local_forward_in_use, remote_forward, renamed

SECONDS = 20


@dataclass(frozen=True)
class Network:
    lab: Lab
    pool: Host
    account: sshd.Account

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.lab.inside(command), capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def sessions(self) -> int:
        return self.pool.log.read_text().count("mining.authorize")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Lab() as lab:
        yield Network(lab, lab.start("pool", [*PYTHON, "-m", "agentwatch.demo.pool"]), sshd.start(lab))


@needs_root
@pytest.mark.parametrize("mode", ["inline", "async", "sqpoll"])
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_io_uring_client_logs_in_without_a_socket_call(
    network: Network, tmp_path: Path, mode: str, family: str
) -> None:
    address = getattr(network.pool, family)
    if address is None:
        pytest.skip("no IPv6")
    before = network.sessions()
    done = network.run([str(compiled("io_uring_stratum")), mode, address, str(pool.PORT)])
    if done.returncode == 77:
        pytest.skip(f"io_uring: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert network.sessions() == before + 1


@needs_root
def test_client_of_single_bytes_is_understood(network: Network) -> None:
    before = network.sessions()
    assert network.run(script("stratum_bytes", network.pool.ipv4, pool.PORT)).returncode == 0
    assert network.sessions() == before + 1


@needs_root
def test_daemon_outlives_its_parents_in_a_session_of_its_own(network: Network, tmp_path: Path) -> None:
    before, pid_file = network.sessions(), tmp_path / "pid"
    started = network.run(script("stratum_daemon", network.pool.ipv4, pool.PORT, pid_file))
    assert started.returncode == 0
    eventually(lambda: pid_file.exists() and "done" in pid_file.read_text())
    assert network.sessions() == before + 1
    pid = int(pid_file.read_text().split()[0])
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_lsp_session_ends_well() -> None:
    assert subprocess.run(script("lsp_session"), timeout=SECONDS, check=False).returncode == 0


@pytest.mark.parametrize("kind", ["udp-connect", "sendto", "fork", "exec", "none"])
def test_flood_keeps_its_rate(kind: str) -> None:
    flood = subprocess.run(
        [compiled("flood"), kind, "500", "0.2"], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    done, seconds = flood.stdout.split()
    assert 0 < int(done) <= 500 * float(seconds) + 1


def test_flood_refuses_an_unknown_kind() -> None:
    assert (
        subprocess.run([compiled("flood"), "x", "1", "1"], capture_output=True, check=False).returncode == 2
    )


@needs_root
@pytest.mark.parametrize("form", [remote_forward, renamed, configured])
def test_remote_forward_lets_the_outside_in(
    network: Network, tmp_path: Path, form: Callable[[sshd.Account, int, Path], list[str]]
) -> None:
    inside = network.lab.inside(script("serve_once", tmp_path / "port"))
    with subprocess.Popen(inside) as server:
        target = int(eventually(lambda: (tmp_path / "port").exists() and (tmp_path / "port").read_text()))
        command = form(network.account, target, tmp_path)
        with subprocess.Popen(network.lab.inside(command), stdin=subprocess.DEVNULL) as ssh:
            try:
                assert server.wait(SECONDS) == 0
            finally:
                ssh.terminate()
                server.kill()


@needs_root
def test_local_forward_is_used(network: Network) -> None:
    done = network.run(local_forward_in_use(network.account))
    assert done.returncode == 0, done.stderr


@needs_root
def test_git_clones_over_ssh(network: Network, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    done = subprocess.run(
        network.lab.inside(git_clone(network.account, repository, tmp_path / "clone")),
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clone" / "train.py").exists()
