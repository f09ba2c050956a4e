"""What runs already is known as if it had been watched from the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentwatch.enrich.flows import Flow
from agentwatch.enrich.processes import Process
from agentwatch.kernel.cgroup import existing
from agentwatch.schema.events import ExecFlag
from agentwatch.session import Session
from agentwatch.watch import Options, Watch
from tests.lab import Cgroup, eventually
from tests.lab.running import PYTHON, Talker, talker
from tests.lab.watched import NO_RULES, Kept

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SUBSCRIBE = '{"id":1,"method":"mining.subscribe","params":["miner/1.0"]}'


@contextmanager
def attached(agent: Talker) -> Iterator[Kept]:
    """A session over an agent that runs."""
    options = Options("found", "monitor", running=True)
    with (
        existing(agent.cgroup.path) as cgroup,
        Watch() as watch,
    ):
        watch.add(options, cgroup)
        with Session(watch, NO_RULES, []) as session:
            yield Kept(session)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Talker]:
    with talker(tmp_path) as found:
        yield found


def process(watch: Kept, agent: Talker) -> Process:
    """The agent's own process."""
    (found,) = [one for one in watch.session.state.processes.all() if one.pid == agent.process.pid]
    return found


def flow(watch: Kept, local: int, remote: int = 0) -> Flow:
    """The flow with these ports."""
    (found,) = [
        one
        for one in watch.session.state.flows.all()
        if (one.local_port, one.remote_port) == (local, remote) and not one.closed
    ]
    return found


def ports(agent: Talker) -> tuple[int, int]:
    """The agent's port of its old connection, and its peer's."""
    return agent.peer.getpeername()[1], agent.peer.getsockname()[1]


def test_process_is_known_with_its_circumstances(agent: Talker, tmp_path: Path) -> None:
    with attached(agent) as watch:
        watch.until("process")
        found = process(watch, agent)
        assert found.exe == os.path.realpath(PYTHON)
        assert found.argv == agent.argv
        assert found.cwd == str(tmp_path)
        assert (found.uid, found.euid, found.gid) == (0, 0, 0)
        assert found.truncated == frozenset()
        assert found.parent is not None and found.parent[0] == os.getpid()


def test_sockets_are_known_with_their_owner(agent: Talker) -> None:
    with attached(agent) as watch:
        watch.until("socket_seen", 2)
        owner = process(watch, agent).key
        old, listener = flow(watch, *ports(agent)), flow(watch, agent.port)
        assert (old.owner, old.transport, old.remote) == (owner, "tcp", "127.0.0.1")
        assert listener.owner == owner
        states = {event["local_port"]: event["state"] for event in watch.named("socket_seen")}
        assert states == {agent.port: "listen", ports(agent)[0]: "established"}


def test_conversation_is_recognised_in_its_middle(agent: Talker) -> None:
    agent.tell("say " + "not seen by anybody " * 10)
    with attached(agent) as watch:
        agent.tell(f"say {SUBSCRIBE}")
        watch.until("payload")
        found = flow(watch, *ports(agent))
        assert found.application == "stratum"
        assert found.owner == process(watch, agent).key
        assert watch.named("payload")[0]["tgid"] == agent.process.pid  # said by the kernel itself


def test_connections_of_an_old_listener_are_its_owners(agent: Talker) -> None:
    with attached(agent) as watch, socket.create_connection(("127.0.0.1", agent.port)) as visitor:
        agent.tell("accept")
        watch.until("accept")
        (event,) = watch.named("accept")
        assert event["tgid"] == agent.process.pid
        assert flow(watch, agent.port, visitor.getsockname()[1]).owner == process(watch, agent).key


def test_end_of_an_old_connection_is_told_with_what_went_over_it_since(agent: Talker) -> None:
    agent.tell("say before")
    with attached(agent) as watch:
        agent.tell("say after")
        agent.tell("close")
        watch.until("close")
        (event,) = watch.named("close")
        assert (event["remote_port"], event["bytes_out"]) == (ports(agent)[1], len("after\n"))


@pytest.mark.parametrize(("order", "text"), [("run", "from main"), ("thread", "from a thread")])
def test_children_of_old_processes_and_threads_are_followed(agent: Talker, order: str, text: str) -> None:
    with attached(agent) as watch:
        agent.tell(order)
        watch.until("exit")
        (child,) = [one for one in watch.session.state.processes.all() if one.argv == ("/bin/true", text)]
        assert [one.pid for one in watch.session.state.processes.ancestors(child)] == [agent.process.pid]


def test_old_descendants_are_known_with_their_ancestry(agent: Talker) -> None:
    with agent.cgroup.popen(["sh", "-c", "sleep 600 & echo ready; wait"], stdout=-1) as shell:
        assert shell.stdout is not None and shell.stdout.readline() == b"ready\n"
        with attached(agent) as watch:
            watch.until("process", 3)
            (sleep,) = [one for one in watch.session.state.processes.all() if one.argv == ("sleep", "600")]
            assert [one.pid for one in watch.session.state.processes.ancestors(sleep)] == [shell.pid]
        (agent.cgroup.path / "cgroup.kill").write_text("1")


def test_who_joins_from_outside_is_found_and_followed(agent: Talker) -> None:
    with attached(agent) as watch:
        joined = agent.cgroup.popen(["sh", "-c", "read go; /bin/true inside; read end"], stdin=-1)
        with joined:
            watch.until("process", 2)
            assert joined.stdin is not None
            joined.stdin.write(b"go\n")
            joined.stdin.flush()
            watch.until("exit")
            (child,) = [one for one in watch.session.state.processes.all() if "inside" in one.argv]
            (parent,) = watch.session.state.processes.ancestors(child)
            assert (parent.pid, parent.argv[0]) == (joined.pid, "sh")
            joined.stdin.close()
        watch.until("exit", 2)
        assert len(watch.named("process")) == 2


def test_nothing_of_the_agent_is_kept_or_changed(agent: Talker) -> None:
    folders = [Path(f"/proc/{pid}/fd") for pid in (agent.process.pid, os.getpid())]
    before = [len(list(folder.iterdir())) for folder in folders]
    members = agent.cgroup.pids()
    with attached(agent) as watch:
        watch.until("socket_seen", 2)
    assert [len(list(folder.iterdir())) for folder in folders] == before
    assert agent.cgroup.pids() == members
    assert not agent.cgroup.frozen()


MANY = """
import os, signal
for _ in range(300):
    if os.fork() == 0:
        os.read(0, 1)
        os.fork()  # perhaps before it is described itself
        signal.pause()
print("up", flush=True)
signal.pause()
"""


def test_stock_of_a_big_tree_is_taken_beside_events(agent: Talker) -> None:
    with Cgroup("many") as cgroup, cgroup.popen([PYTHON, "-c", MANY], stdin=-1, stdout=-1) as many:
        assert many.stdout is not None and many.stdout.readline() == b"up\n"
        assert many.stdin is not None
        with attached(agent) as watch, existing(cgroup.path) as found:
            number = watch.session.add(Options("many", "monitor", running=True), found)
            big = watch.session.watch.agents[number]
            assert not big.ready
            agent.tell("run")  # of another agent: its program and its end are told meanwhile
            many.stdin.write(b"." * 100)
            many.stdin.flush()
            watch.until("fork", 50)
            while not big.ready:
                watch.step()
            eventually(lambda: (watch.step(0), len(watch.named("process")) >= 300)[1])
            known = [one for one in watch.session.state.processes.all() if one.agent == number]
            assert {one.exe for one in known} == {os.path.realpath(PYTHON)}
            assert {one.argv for one in known} == {(PYTHON, "-c", MANY)}
            (cgroup.path / "cgroup.kill").write_text("1")


NAMELESS = """
import os, shutil
fd = {fd}
shutil.copy("/bin/sleep", "/proc/self/fd/%d" % fd)
fd = os.open("/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)
os.path.exists("gone") and os.unlink("gone")
os.closerange(3, fd)
os.set_inheritable(1, False)
os.execve(fd, ["gone", "600"], {{}})
"""


@pytest.mark.parametrize(
    ("fd", "exe", "flags"),
    [
        ("os.memfd_create('x')", "/memfd:x", ExecFlag.MEMFD | ExecFlag.DELETED),
        ("os.open('gone', os.O_CREAT | os.O_RDWR, 0o700)", "{here}/gone", ExecFlag.DELETED),
    ],
)
def test_program_without_a_name_is_marked(
    agent: Talker, tmp_path: Path, fd: str, exe: str, flags: int
) -> None:
    with agent.cgroup.popen([PYTHON, "-c", NAMELESS.format(fd=fd)], cwd=tmp_path, stdout=-1) as program:
        assert program.stdout is not None and program.stdout.read() == b""  # closed by the exec
        with attached(agent) as watch:
            watch.until("process", 2)
            (found,) = [one for one in watch.session.state.processes.all() if one.pid == program.pid]
            assert (found.exe, found.flags) == (exe.format(here=tmp_path), flags)
        (agent.cgroup.path / "cgroup.kill").write_text("1")
