"""What the kernel refuses agents, and agents alone, where eBPF is among its LSMs."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentwatch.detect.privileged import CATEGORIES, Privileged
from agentwatch.enrich.facts import Facts
from agentwatch.enrich.state import State
from agentwatch.kernel.denials import absence
from agentwatch.kernel.probes import Probes
from agentwatch.schema.events import BpfCommand, Denial
from agentwatch.watch import AGENT
from tests.lab import needs_root
from tests.lab.watched import Watched, watched

ALLOWED, REFUSED = 0, errno.EPERM

needs_lsm = pytest.mark.skipif(bool(absence()), reason=absence())


def attempts(code: str, answers: Path) -> list[str]:
    """An agent that tries things, the error of each on a line of `answers`: `say(call)`, 0 for none."""
    preamble = f"""
        import ctypes, os, signal, socket, subprocess, sys, time
        from pathlib import Path
        libc = ctypes.CDLL(None, use_errno=True)
        answers = open({str(answers)!r}, "w", buffering=1)
        def say(call):
            try:
                failed = call() == -1 and ctypes.get_errno()
            except OSError as error:
                failed = error.errno
            print(int(failed), file=answers)
    """
    return ["/usr/bin/python3", "-c", textwrap.dedent(preamble) + textwrap.dedent(code)]


def errors(answers: Path) -> list[int]:
    return [int(line) for line in answers.read_text().split()]


def denials(agent: Watched) -> list[tuple[Denial, int, int]]:
    return [(Denial(one["what"]), one["argument"], one["target"]) for one in agent.named("denied")]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


@needs_root
@needs_lsm
def test_an_agent_under_enforce_is_kept_from_the_monitor(tmp_path: Path) -> None:
    answers, monitor = tmp_path / "answers", os.getpid()
    code = f"""
        attr = (ctypes.c_uint32 * 18)(2, 4, 4, 1)
        say(lambda: os.kill({monitor}, 0))
        say(lambda: os.kill({monitor}, signal.SIGWINCH))
        say(lambda: libc.ptrace(0x4206, {monitor}, 0, 0))
        say(lambda: open("/proc/{monitor}/mem", "rb"))
        say(lambda: open("/proc/{monitor}/status", "rb"))
        say(lambda: libc.syscall(321, 0, attr, 72))
        say(lambda: libc.syscall(175, b"x" * 64, 64, b""))
        say(lambda: libc.syscall(313, os.open("/bin/true", os.O_RDONLY), b"", 0))
        child = subprocess.Popen(["sleep", "60"])
        say(lambda: libc.ptrace(0x4206, child.pid, 0, 0))
        say(lambda: os.kill(child.pid, signal.SIGKILL))
    """
    with watched(attempts(code, answers), mode="enforce") as agent:
        agent.until_end()
    refused = [ALLOWED, REFUSED, REFUSED, errno.EACCES, ALLOWED, REFUSED, REFUSED, REFUSED, ALLOWED, ALLOWED]
    found = errors(answers)
    assert found[:3] + found[4:] == refused[:3] + refused[4:]
    assert found[3] in (errno.EACCES, errno.EPERM)
    assert set(denials(agent)) == {
        (Denial.SIGNAL, 28, monitor),
        (Denial.PTRACE, 0, monitor),
        (Denial.BPF, BpfCommand.MAP_CREATE, 0),
        (Denial.MODULE, 2, 0),
    }
    assert _told(agent) >= {("denial", "signal"), ("tampering", "signal"), ("tampering", "ptrace"),
                            ("privileged_operation", "module_load")}  # fmt: skip


def _told(agent: Watched) -> set[tuple[str, str]]:
    """Category and kind of the events that rules see."""
    state = State()
    facts, detector = Facts(state, ("denial", "tampering")), Privileged(state, CATEGORIES)
    told = set()
    for seq, (_, row) in enumerate(agent.rows):
        change = state.apply(seq, row)
        if change is None:
            continue
        handle = detector.handlers.get(change.type)
        found = [facts.of(change), *(handle(change) if handle is not None else ())]
        told |= {(one.category, str(one.fields["Kind"])) for one in found if one is not None}
    return told


@needs_root
@needs_lsm
def test_an_agent_that_is_only_watched_is_refused_nothing(tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    code = f"""
        say(lambda: os.kill({os.getpid()}, signal.SIGWINCH))
        say(lambda: libc.syscall(321, 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72))
    """
    with watched(attempts(code, answers), mode="monitor") as agent:
        agent.session.probes.denials.guard(AGENT + 1)  # for another one
        agent.until_end()
    assert errors(answers) == [ALLOWED, ALLOWED]
    assert denials(agent) == []


BLOCKED = """
    Path("{folder}/ready").touch()
    while not Path("{folder}/go").exists():
        time.sleep(0.01)
    old = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    say(lambda: subprocess.run(["/bin/true"]))
    say(lambda: socket.create_connection(("127.0.0.1", {port}), 5))
    say(lambda: old.sendto(b"x", ("127.0.0.1", {port})))
    say(lambda: open("{folder}/.ssh/id_rsa"))
    say(lambda: open("{folder}/.ssh/id_rsa", "a"))
    say(lambda: open("{folder}/plain"))
"""


@pytest.mark.parametrize("blocked", [True, False])
@needs_root
@needs_lsm
def test_a_blocked_agent_starts_nothing_and_reaches_nobody(
    tmp_path: Path, server: socket.socket, blocked: bool
) -> None:
    answers = tmp_path / "answers"
    (tmp_path / ".ssh").mkdir()
    for name in (".ssh/id_rsa", "plain"):
        (tmp_path / name).touch()
    port = server.getsockname()[1]
    with watched(attempts(BLOCKED.format(folder=tmp_path, port=port), answers)) as agent:
        while not (tmp_path / "ready").exists():
            agent.step()
        probes, cgroup = agent.session.probes, agent.cgroup.id
        probes.block(AGENT, cgroup)
        if not blocked:
            probes.unblock(AGENT, cgroup)
        subprocess.run(["true"], check=True)  # others do as they like
        socket.create_connection(("127.0.0.1", port), 5).close()
        (tmp_path / "go").touch()
        agent.until_end()
    if blocked:
        assert errors(answers) == [*[REFUSED] * 5, ALLOWED]
        assert [what for what, _, _ in denials(agent)] == [Denial.EXEC, Denial.CONNECT, Denial.OPEN]
    else:
        assert errors(answers) == [ALLOWED] * 6
        assert denials(agent) == []


@needs_root
def test_where_there_are_no_lsms_of_ebpf_it_is_said_why() -> None:
    if not absence():
        pytest.skip("there are")
    with Probes() as probes, pytest.raises(Exception, match="lsm"):
        probes.denials.block(1)
